"""
ALE's vector environment of Atari games as a ``VecEnv``.

Knows ALE, Gymnasium's Atari ids and the preprocessing of the paper (arXiv 2302.11563): each action repeated
for 4 raw frames, the maximum of the last two, greyscale, 96x96, sticky actions, no no-ops at reset, no fire
reset, and no episode end on a lost life. Must not know any network, novelty or algorithm.
"""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_snd.common.extras import require
from sb3_snd.common.preprocessing import MIN_FRAME_SIZE
from sb3_snd.common.processors import available_threads
from sb3_snd.common.validation import FRACTION, integer, one_of, validate
from sb3_snd.envs import native
from sb3_snd.envs.atari_rewards import REWARDS, VecPositiveReward, VecSignReward
from sb3_snd.envs.atari_rooms import ROOM_BYTES, ShadowEmulators
from sb3_snd.envs.native import NativeVecEnv, find_spec

MAX_EPISODE_STEPS = 4500  # as in the paper

#: with some values outside these limits, ALE ends the process or waits forever
RULES = {
    **native.RULES,
    "frame_size": integer(MIN_FRAME_SIZE, 1024),
    "frame_skip": integer(1, 1000),
    "max_episode_steps": integer(1, 1_000_000),  # times 1000 frames still fits into ALE's 31 bits
    "repeat_action_probability": FRACTION,
    "reward": one_of(*REWARDS),
}


class AtariVecEnv(NativeVecEnv):
    """
    ALE's vector environment, which steps and preprocesses all games in C++ threads, as a ``VecEnv``.

    Observations are ``(n_envs, n_stack, frame_size, frame_size)`` uint8, with the newest frame last. After a
    reset the older frames are zero. Rewards are the game's own and not clipped. Every info has ``"lives"``,
    the number of lives in the observation returned with it; after the end of an episode, that is the number
    in the next one.

    The terminal observation is exact if the time limit ended the episode. If the game itself ended it, the
    newest frame of the terminal observation repeats that of the previous step, because ALE has already reset
    the game before the last screen can be read. (If the game ends in the last raw frame of a step, ALE mixes
    a screen of that step into the newest frame of the previous step.) ``AtariWrapper`` returns the true
    terminal observation.

    :param env_id: Gymnasium id of an Atari game, such as ``"MontezumaRevengeNoFrameskip-v4"``. It only
        determines the game and its action set; everything else is given by the arguments below
    :param n_envs: Number of environments
    :param frame_size: Height and width of a frame in pixels
    :param frame_skip: Number of raw frames for which an action is repeated
    :param n_stack: Number of frames in an observation
    :param max_episode_steps: Number of agent steps after which an episode is truncated
    :param repeat_action_probability: Probability per raw frame that the emulator repeats the last action
    :param num_threads: Number of C++ threads; 0 for the number that
        :func:`~sb3_snd.common.processors.available_threads` returns
    """

    remedy = f"{NativeVecEnv.remedy} with wrapper_class=AtariWrapper"

    def __init__(
        self,
        env_id: str,
        n_envs: int = 1,
        frame_size: int = 96,
        frame_skip: int = 4,
        n_stack: int = 4,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        repeat_action_probability: float = 0.25,
        num_threads: int = 0,
    ):
        arguments = dict(
            n_envs=n_envs,
            frame_size=frame_size,
            frame_skip=frame_skip,
            n_stack=n_stack,
            num_threads=num_threads,
            max_episode_steps=max_episode_steps,
            repeat_action_probability=repeat_action_probability,
        )
        given = validate(arguments, RULES)
        n_envs, n_stack = given["n_envs"], given["n_stack"]
        frame_size, self.frame_skip = given["frame_size"], given["frame_skip"]
        self.repeat_action_probability = given["repeat_action_probability"]
        self.max_episode_frames = given["max_episode_steps"] * self.frame_skip
        gym.register_envs(require("ale_py", "atari"))
        self.spec = find_spec(env_id, "ale_py.env:AtariEnv", "an Atari game")
        self.render_mode = None
        from ale_py.vector_env import AtariVectorEnv

        self.envs: Any = AtariVectorEnv(
            self.spec.kwargs["game"],
            n_envs,
            num_threads=given["num_threads"] or min(available_threads(), n_envs),
            # At its limit ALE stops before it reads the last screen, so it gets one frame more: see step_wait
            max_num_frames_per_episode=self.max_episode_frames + 1,
            repeat_action_probability=self.repeat_action_probability,
            full_action_space=self.spec.kwargs.get("full_action_space", False),
            autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
            img_height=frame_size,
            img_width=frame_size,
            stack_num=n_stack,
            frameskip=self.frame_skip,
            noop_max=0,
            reward_clipping=False,
            use_fire_reset=False,
        )
        observation_space = spaces.Box(0, 255, (n_stack, frame_size, frame_size), np.uint8)
        super().__init__(n_envs, observation_space, spaces.Discrete(len(self.envs.ale.get_action_set())))
        self.zero_padded_stack = n_stack
        self._newest = np.zeros((n_envs, frame_size, frame_size), np.uint8)
        self._stepping = False
        self._fresh_seeds: list[int] | None = None  # seeds of the last reset, until the first step after it
        self._shadows: ShadowEmulators | None = None

    def reset(self) -> np.ndarray:
        """
        Start a new episode in all environments, with the seeds given to ``seed`` since the last reset.

        :return: observations ``(n_envs, n_stack, frame_size, frame_size)`` uint8
        """
        if self._stepping:
            self.step_wait()  # otherwise ALE would return the results of this step as those of the next
        # ALE accepts 31 bits, and -1 for no new seed
        seeds = [-1 if seed is None else seed % 2**31 for seed in self._seeds]
        obs, _ = self.envs.reset(seed=np.array(seeds))
        if set(seeds) != {-1}:
            self._fresh_seeds, self._shadows = seeds, None
        if self._shadows is not None:
            self._shadows.reset()
        self._reset_seeds()
        self._reset_options()
        self._newest = obs[:, -1]
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """
        Pass the actions to the C++ threads and return immediately.

        :param actions: ``(n_envs,)`` integers
        """
        # An invalid action silently ends ALE's thread, and step_wait would never return
        actions = self.check_actions(actions)
        self.envs.send(actions)
        self._stepping, self._fresh_seeds = True, None
        if self._shadows is not None:
            self._shadows.step(actions)  # while the C++ threads step the environments

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the results of the step that ``step_async`` started.

        :return: observations ``(n_envs, n_stack, frame_size, frame_size)`` uint8, in memory that later steps
            do not change; rewards ``(n_envs,)`` float32; dones ``(n_envs,)`` bool; infos
        """
        obs, rewards, terminated, _, info = self.envs.recv()
        self._stepping = False
        # If the game ended, ALE has already reset it, and the frame number is 0
        truncated = info["episode_frame_number"] >= self.max_episode_frames  # (n_envs,)
        terminal = {}
        for i in np.flatnonzero(terminated):  # the other rows of final_obs are undefined
            terminal[i] = info["final_obs"][i].copy()  # (n_stack, frame_size, frame_size)
            terminal[i][-1] = self._newest[i]
        if truncated.any():
            terminal.update((i, obs[i].copy()) for i in np.flatnonzero(truncated))
            obs, info = self.envs.reset(options={"reset_mask": truncated})
        self._newest = obs[:, -1]
        if self._shadows is not None and not self._shadows.reset_ended(terminated, truncated):
            self._shadows = None
            warnings.warn("Shadow emulators no longer match the environments: places are unknown from now on.")

        infos: list[dict[str, Any]] = [
            {"lives": lives, "TimeLimit.truncated": out_of_time}
            for lives, out_of_time in zip(info["lives"].tolist(), truncated.tolist(), strict=True)
        ]
        for i, terminal_obs in terminal.items():
            infos[i]["terminal_observation"] = terminal_obs
        return obs, rewards.astype(np.float32), terminated | truncated, infos

    def start_shadow_emulators(self, n_envs: int) -> bool:
        """
        Replay the first environments in additional emulators until they get other seeds. :meth:`get_places`
        can then read their rooms.

        :param n_envs: Maximum number of environments to replay
        :return: whether this is possible: the game must be in ``ROOM_BYTES``, and the environments must have
            been seeded and not stepped since
        """
        if self._shadows is not None:
            return True
        game = self.spec.kwargs["game"]
        if game not in ROOM_BYTES or self._fresh_seeds is None:
            return False
        self._shadows = ShadowEmulators(
            game,
            self._fresh_seeds[:n_envs],
            self.envs.ale.get_action_set(),
            self.frame_skip,
            self.repeat_action_probability,
        )
        return True

    def get_places(self) -> list[int | None]:
        """
        Read the room numbers from the shadow emulators.

        :return: room number of each agent; None for environments that are not replayed, see
            :meth:`start_shadow_emulators`
        """
        rooms: list[int | None] = [] if self._shadows is None else [*self._shadows.get_rooms()]
        return rooms + [None] * (self.num_envs - len(rooms))

    def close(self) -> None:
        """Stop the C++ threads."""
        self.envs.ale = None


def make_atari_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    reward: str = "positive",
    **kwargs: Any,
) -> VecEnv:
    """
    Make the paper's Atari environments. ``infos[i]["episode"]["r"]`` is always the raw score.

    :param env_id: Gymnasium id of an Atari game, such as ``"MontezumaRevengeNoFrameskip-v4"``
    :param n_envs: Number of environments
    :param seed: Environment ``i`` is seeded with ``seed + i``; drawn from numpy's global generator if None
    :param reward: The learner's reward: ``"positive"``, 1 if the game's reward is positive, else 0, as in the
        paper; ``"sign"``, -1, 0 or 1, as in DQN, for games with negative rewards; ``"raw"``, unchanged
    :param kwargs: Other arguments of ``AtariVecEnv``
    :return: vector environment
    """
    given = validate({"seed": seed, "reward": reward}, RULES)
    venv = AtariVecEnv(env_id, n_envs, **kwargs)
    venv.seed(given["seed"])
    monitored = VecMonitor(venv)
    wrapper = {"positive": VecPositiveReward, "sign": VecSignReward}.get(given["reward"])
    return monitored if wrapper is None else wrapper(monitored)
