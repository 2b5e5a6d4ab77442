"""PPO with an extrinsic and an intrinsic stream on an Atari game, with the paper's settings at a smaller scale."""

from sb3_snd import PPOSND
from sb3_snd.common.extras import require_or_exit
from sb3_snd.envs import make_atari_env


def main(total_timesteps: int = 100_000, n_envs: int = 16, n_steps: int = 128) -> PPOSND:
    env = make_atari_env("MontezumaRevengeNoFrameskip-v4", n_envs, seed=0)  # in C++ threads; rewards 0 or 1
    model = PPOSND(
        "CnnPolicy",
        env,
        snd="vic",
        snd_kwargs={"eta": 0.25},
        gamma=0.998,
        gamma_int=0.99,
        n_steps=n_steps,
        batch_size=256,
        n_epochs=4,
        learning_rate=1e-4,
        clip_range=0.1,
        ent_coef=0.001,
        vf_coef=1.0,
        seed=0,
        verbose=1,
    )
    model.learn(total_timesteps)
    model.save("montezuma")  # policy, SND networks, both optimisers, running statistics
    return model


if __name__ == "__main__":
    require_or_exit("ale_py", "atari")
    main()
