"""Add a bonus to sb3-contrib's ``MaskablePPO``: the wrapper passes action masks on."""

from stable_baselines3.common.env_util import make_vec_env

from sb3_snd import SNDCallback, VecIntrinsicReward
from sb3_snd.common.extras import require_or_exit

require_or_exit("sb3_contrib", "zoo")

from sb3_contrib import MaskablePPO  # noqa: E402
from sb3_contrib.common.envs import InvalidActionEnvDiscrete  # noqa: E402


def main(total_timesteps: int = 20_000) -> tuple[MaskablePPO, VecIntrinsicReward]:
    env = make_vec_env(InvalidActionEnvDiscrete, n_envs=4, env_kwargs={"dim": 20, "n_invalid_actions": 10}, seed=0)
    env = VecIntrinsicReward(env, "rnd", snd_kwargs={"norm_reward": True}, ext_coef=1.0, int_coef=0.1)
    model = MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=256, seed=0, device="cpu", verbose=1)
    model.learn(total_timesteps, callback=SNDCallback())
    return model, env


if __name__ == "__main__":
    main()
