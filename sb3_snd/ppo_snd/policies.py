"""Actor and critic with one column of values per stream.

Knows networks; the number of streams is an argument.
"""

from functools import partial
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_snd.common.preprocessing import check_frame_size, count_symbols, is_grid, one_hot_planes
from sb3_snd.common.torch_layers import encoder, snd_convs
from sb3_snd.common.validation import MAX_WIDTH, integer, validate


class SNDTrunk(BaseFeaturesExtractor):
    """
    Trunk of the paper's actor and critic: four convolutions over all frames of the stack, and one linear
    layer without an activation after it (Pecháč et al., arXiv 2302.11563, and the released program). Grids get
    three convolutions that fit them, and their symbols are encoded one-hot, see
    :class:`~sb3_snd.common.preprocessing.FrameReader`.

    :param observation_space: Space of images or grids. SB3 transposes uint8 images to channels first; others may
        have either order
    :param features_dim: Output size
    :param width: Channels of the last convolution of images: 128 for Atari, 64 for Procgen
    :raises ValueError: if the space does not hold images, or if height or width is below 4
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 512, width: int = 128) -> None:
        size = integer(1, MAX_WIDTH)
        sizes = validate(dict(features_dim=features_dim, width=width), dict(features_dim=size, width=size))
        super().__init__(observation_space, sizes["features_dim"])
        shape = observation_space.shape
        if shape is None or len(shape) != 3:
            raise ValueError(f"CnnPolicy needs images, not {observation_space}: use MlpPolicy.")
        assert isinstance(observation_space, gym.spaces.Box)
        self.channels_last = not is_image_space_channels_first(observation_space)
        if self.channels_last:
            shape = shape[2], *shape[:2]
        check_frame_size(*shape[1:])
        #: number of symbols in each channel of a grid, empty for images
        self.symbols = count_symbols(observation_space) if is_grid(shape) else ()
        if self.symbols:
            shape = sum(self.symbols), *shape[1:]
        self.net = encoder(shape, snd_convs(sizes["width"]), sizes["features_dim"], nn.ReLU)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        Compute features.

        :param observations: ``(n, *shape)`` float32; images in [0, 1]
        :return: ``(n, features_dim)``
        """
        if self.channels_last:
            observations = observations.permute(0, 3, 1, 2)
        if self.symbols:
            observations = one_hot_planes(observations, self.symbols)
        return self.net(observations)


class GridCNN(SNDTrunk):
    """
    Features extractor for small grids, such as MiniGrid's views: :class:`.SNDTrunk` with few features and a ReLU.

    :param observation_space: Space of grids
    :param features_dim: Output size
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 64) -> None:
        super().__init__(observation_space, features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        Compute features.

        :param observations: ``(n, *shape)`` float32
        :return: ``(n, features_dim)``
        """
        return th.relu(super().forward(observations))


class StreamActorCriticPolicy(ActorCriticPolicy):
    """
    SB3's ``ActorCriticPolicy`` with a critic that returns ``(n, n_streams)`` values. With one stream it is
    the same net. With more streams, Adam is PyTorch's fused implementation.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param n_streams: Number of value columns of the critic
    :param kwargs: Further arguments of ``ActorCriticPolicy``
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        n_streams: int = 1,
        **kwargs: Any,
    ) -> None:
        self.n_streams = n_streams
        is_adam = kwargs.get("optimizer_class", th.optim.Adam) is th.optim.Adam
        if n_streams > 1 and is_adam and kwargs.get("optimizer_kwargs") is None:
            kwargs["optimizer_kwargs"] = {"eps": 1e-5, "fused": True}  # SB3's eps
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_streams": self.n_streams}

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.n_streams > 1:
            self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, self.n_streams)
            if self.ortho_init:
                self.value_net.apply(partial(self.init_weights, gain=1))
            optimizer_class: Any = self.optimizer_class
            self.optimizer = optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class StreamActorCriticCnnPolicy(StreamActorCriticPolicy):
    """
    The paper's network for images. The trunk is :class:`~sb3_snd.ppo_snd.policies.SNDTrunk`. The actor is
    ReLU, FC 512, ReLU, FC. The critic is FC 512, ReLU, FC; with one stream a ReLU comes before it, as in the
    baseline. The optimiser is fused Adam with eps 1e-8.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param n_streams: Number of value columns of the critic
    :param net_arch: Hidden layers of actor and critic; by default one of 512 units each
    :param activation_fn: Activation between linear layers
    :param features_extractor_class: Class of the trunk
    :param optimizer_kwargs: Arguments of the optimiser besides the learning rate
    :param kwargs: Further arguments of ``ActorCriticPolicy``
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        n_streams: int = 1,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = SNDTrunk,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if optimizer_kwargs is None:  # PyTorch's eps, 1e-8
            is_adam = kwargs.get("optimizer_class", th.optim.Adam) is th.optim.Adam
            optimizer_kwargs = {"fused": True} if is_adam else {}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            n_streams,
            net_arch=dict(pi=[512], vf=[512]) if net_arch is None else net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )

    def extract_features(self, obs: Any, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """
        Extract features as SB3 does, but convert images directly to bfloat16 for a shared trunk in bfloat16.

        :param obs: ``(n, *shape)``
        :param features_extractor: See ``ActorCriticPolicy.extract_features``
        :return: ``(n, features_dim)`` float32, or two of them if actor and critic have a trunk each
        """
        trunk = self.features_extractor
        shared = self.share_features_extractor and features_extractor in (None, trunk)
        scaled = self.normalize_images and is_image_space(self.observation_space)
        if shared and scaled and isinstance(trunk, SNDTrunk) and trunk.net.reduced:
            return trunk(obs.to(th.bfloat16).div_(255).to(memory_format=th.channels_last))
        return super().extract_features(obs, features_extractor)

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        # The trunk ends without an activation
        self.mlp_extractor.policy_net.insert(0, self.activation_fn())
        if self.n_streams == 1:
            self.mlp_extractor.value_net.insert(0, self.activation_fn())

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.ortho_init:
            gains = {
                self.mlp_extractor.policy_net: 0.01,
                self.action_net: 0.01,
                self.mlp_extractor.value_net: 0.1,
                self.value_net: 0.01,
            }
            for module, gain in gains.items():
                module.apply(partial(self.init_weights, gain=gain))


class GridPolicy(StreamActorCriticPolicy):
    """
    Policy for small grids. Unmodified PPO can use it, too: ``PPO(GridPolicy, env)``.

    :param args: Arguments of :class:`StreamActorCriticPolicy`, by position
    :param net_arch: Hidden layers of actor and critic
    :param activation_fn: Activation between linear layers
    :param features_extractor_class: Class of the trunk
    :param kwargs: Arguments of :class:`StreamActorCriticPolicy`, by name
    """

    def __init__(
        self,
        *args: Any,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = GridCNN,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            net_arch=[256] if net_arch is None else net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            **kwargs,
        )


class StreamMultiInputActorCriticPolicy(StreamActorCriticPolicy):
    """
    Policy for ``Dict`` observations. SB3's ``CombinedExtractor`` applies a small CNN to each image and
    flattens the other entries.

    :param args: Arguments of :class:`StreamActorCriticPolicy`, by position
    :param features_extractor_class: Class that combines the entries
    :param kwargs: Arguments of :class:`StreamActorCriticPolicy`, by name
    """

    def __init__(
        self,
        *args: Any,
        features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


MlpPolicy = StreamActorCriticPolicy
CnnPolicy = StreamActorCriticCnnPolicy
MultiInputPolicy = StreamMultiInputActorCriticPolicy
