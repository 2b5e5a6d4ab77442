"""
A new target model in 40 lines, registered, checked and trained: Barlow Twins.

Zbontar et al.: Barlow Twins: self-supervised learning via redundancy reduction, arXiv 2103.03230, eq. 1. As
in SND-VIC, successive states stand in for the two augmented views.
"""

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from torch import nn
from torch.nn import functional as F

from sb3_snd import PPOSND
from sb3_snd.targets import Target, Transitions, check_target, register, snd_convs

OFF_DIAGONAL_WEIGHT = 5e-3


def standardize(features: th.Tensor) -> th.Tensor:
    return (features - features.mean(dim=0)) / th.sqrt(features.var(dim=0) + 1e-4)  # (B, D)


class BarlowTarget(Target):
    """
    Barlow Twins as a target model.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    """

    eta = 1.0  # default scale of the intrinsic reward
    gain, learner_gain = 0.5, 2**0.5  # gains of the orthogonal initialisation
    convs = learner_convs = snd_convs(64)  # for images; networks for vectors get two hidden layers

    def loss(self, batch: Transitions, learner: nn.Module) -> dict[str, th.Tensor]:
        z, z_next = batch.split(self(batch.frames))  # features of s_t and s_{t+1}, (B, D) each
        distill = F.mse_loss(learner(batch.states), z.detach())  # its gradient must not reach the target
        correlation = standardize(z).T @ standardize(z_next) / len(z)  # (D, D)
        diagonal = correlation.diagonal()
        on_diagonal = (1 - diagonal).square().sum()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        target = (on_diagonal + OFF_DIAGONAL_WEIGHT * off_diagonal) / self.features_dim
        return {
            "loss": distill + target,
            "distill": distill,
            "target": target,
            "off_diagonal": off_diagonal,  # additional terms are logged
            "features": z.detach(),
        }


def main(total_timesteps: int = 50_000) -> PPOSND:
    check_target(BarlowTarget)
    register("barlow", BarlowTarget)
    env = make_vec_env("MountainCarContinuous-v0", n_envs=8, seed=0)
    snd_kwargs = {"norm_reward": True, "eta": 10.0}
    model = PPOSND(
        "MlpPolicy", env, snd="barlow", snd_kwargs=snd_kwargs, n_steps=128, batch_size=256, seed=0, device="cpu", verbose=1
    )
    return model.learn(total_timesteps)


if __name__ == "__main__":
    main()
