"""Actor and critic with one column of values per stream.

Knows networks; the number of streams is an argument.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_snd.arguments import FLAG, WIDEST, Allowed, check_names, checked, default_of, number, or_none, whole
from sb3_snd.torch_layers import SNDTrunk

DEEPEST = 100  # largest number of hidden layers
#: arguments that the algorithm passes to a policy
GIVEN = ("observation_space", "action_space", "lr_schedule", "use_sde", "n_streams")


def _are_widths(value: Any) -> bool:
    width = whole(1, WIDEST)
    return isinstance(value, (list, tuple)) and len(value) <= DEEPEST and all(map(width.holds, value))


def _is_net_arch(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]  # SB3's format before 1.8
    if isinstance(value, dict):
        return set(value) <= {"pi", "vf"} and all(map(_are_widths, value.values()))
    return _are_widths(value)


def _is_activation(value: Any) -> bool:
    try:
        return isinstance(value, type) and issubclass(value, nn.Module) and value()(th.zeros(1, 4)).shape == (1, 4)
    except Exception:  # a layer may raise anything
        return False


def _subclass(parent: type) -> Allowed:
    return Allowed(lambda value: isinstance(value, type) and issubclass(value, parent), f"be a subclass of {parent.__name__}")


ARGUMENTS = {
    "net_arch": or_none(
        Allowed(
            _is_net_arch,
            f"be a list of at most {DEEPEST} widths, integers from 1 to {WIDEST}, or a dict of such lists, 'pi' and 'vf'",
        )
    ),
    "activation_fn": Allowed(_is_activation, "be a class of element-wise layers, such as torch.nn.Tanh"),
    **dict.fromkeys(
        ("ortho_init", "full_std", "use_expln", "squash_output", "share_features_extractor", "normalize_images"), FLAG
    ),
    "log_std_init": number(-10, 10),
    "features_extractor_class": _subclass(BaseFeaturesExtractor),
    "optimizer_class": _subclass(th.optim.Optimizer),
}


def check_policy_kwargs(policy_class: type["StreamActorCriticPolicy"], policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Check the arguments of a policy.

    :param policy_class: The policy
    :param policy_kwargs: Its arguments by name
    :return: the same arguments, with NumPy scalars converted to Python numbers
    :raises ValueError: for an argument that the policy does not take, or a value out of its range
    """
    check_names("policy_kwargs", policy_kwargs, policy_class, GIVEN)
    plain = checked(policy_kwargs, ARGUMENTS)
    extractor = plain.get("features_extractor_class") or default_of(policy_class, "features_extractor_class")
    if plain.get("features_extractor_kwargs") is not None:
        check_names("features_extractor_kwargs", plain["features_extractor_kwargs"], extractor, ("observation_space",))
    if {"optimizer_class", "optimizer_kwargs"} & set(plain):
        optimizer = plain.get("optimizer_class") or default_of(policy_class, "optimizer_class")
        _check_optimizer(optimizer, plain.get("optimizer_kwargs"))
    return plain


def _check_optimizer(optimizer_class: Any, optimizer_kwargs: dict[str, Any] | None) -> None:
    """Try the optimiser: one step on a single scalar parameter."""
    optimizer_kwargs = {} if optimizer_kwargs is None else optimizer_kwargs
    check_names("optimizer_kwargs", optimizer_kwargs, optimizer_class, ("params", "lr"))
    parameter: Any = nn.Parameter(th.ones(1))
    parameter.grad = th.ones(1)
    try:
        optimizer_class([parameter], lr=1e-3, **optimizer_kwargs).step()
        reason = "" if th.isfinite(parameter).all() else "its step gives a non-finite value"
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
    if reason:
        raise ValueError(
            f"optimizer_class={optimizer_class.__name__} with optimizer_kwargs={optimizer_kwargs!r}"
            f" must be able to take a step: {reason}."
        )


class StreamActorCriticPolicy(ActorCriticPolicy):
    """
    SB3's ``ActorCriticPolicy`` with a critic that returns ``(n, n_streams)`` values. With one stream it is the
    same net. With more streams, Adam is PyTorch's fused implementation.

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
    The paper's network for images. The trunk is :class:`~sb3_snd.torch_layers.SNDTrunk`. The actor is ReLU, FC
    512, ReLU, FC. The critic is FC 512, ReLU, FC; with one stream a ReLU comes before it, as in the baseline.
    The optimiser is fused Adam with eps 1e-8.

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
            optimizer_kwargs = {"fused": True} if kwargs.get("optimizer_class", th.optim.Adam) is th.optim.Adam else {}
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
        Extract features as SB3 does, but convert images to bfloat16 directly if a shared trunk computes in it.

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


class StreamMultiInputActorCriticPolicy(StreamActorCriticPolicy):
    """
    Policy for ``Dict`` observations. SB3's ``CombinedExtractor`` applies a small CNN to each image and flattens
    the other entries.

    :param args: Arguments of :class:`StreamActorCriticPolicy`, by position
    :param features_extractor_class: Class that combines the entries
    :param kwargs: Arguments of :class:`StreamActorCriticPolicy`, by name
    """

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


MlpPolicy = StreamActorCriticPolicy
CnnPolicy = StreamActorCriticCnnPolicy
MultiInputPolicy = StreamMultiInputActorCriticPolicy
