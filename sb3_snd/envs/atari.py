"""
Atari games in two forms: ALE's vector environment as a ``VecEnv``, and a wrapper for ordinary environments.

Knows ALE, Gymnasium's Atari ids and the preprocessing of the paper (arXiv 2302.11563): each action repeated
for 4 raw frames, the maximum of the last two, greyscale, 96x96, sticky actions, no no-ops at reset, no fire
reset, and no episode end on a lost life. Must not know any network, novelty or algorithm.
"""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import AtariPreprocessing, TimeLimit, TransformReward
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_snd.common.extras import require
from sb3_snd.common.preprocessing import MIN_FRAME_SIZE
from sb3_snd.common.processors import available_threads
from sb3_snd.common.validation import SHARE, checked, one_of, whole
from sb3_snd.envs import native
from sb3_snd.envs.native import NativeVecEnv, find_spec

#: game -> index of the byte, among the console's 128, that contains the room number. Montezuma's Revenge, Private Eye and
#: Venture: Anand et al., Unsupervised state representation learning in Atari, arXiv 1906.08226
#: (mila-iqia/atari-representation-learning, ram_annotations.py). Pitfall: according to its disassembly the scene number,
#: which is 196 at the start, is at address $81 (samiam.org/blog/20130606.html). No source is known for Gravitar and Solaris.
ROOM_BYTES = {"montezuma_revenge": 3, "private_eye": 92, "venture": 90, "pitfall": 1}

#: name -> function that maps one reward of a game, or an array of them, to the learner's reward. "positive": 1 if it is
#: positive, else 0, as in the paper. "sign": its sign, as in DQN (Mnih et al., Human-level control through deep reinforcement
#: learning, 2015). "raw": unchanged.
REWARDS: dict[str, Callable[[Any], Any]] = {
    "positive": lambda reward: np.maximum(0.0, np.sign(reward)),
    "sign": np.sign,
    "raw": lambda reward: reward,
}
MAX_EPISODE_STEPS = 4500  # as in the paper

#: with some values outside these limits, ALE ends the process or waits forever
ARGUMENTS = {
    **native.ARGUMENTS,
    "frame_size": whole(MIN_FRAME_SIZE, 1024),
    "frame_skip": whole(1, 1000),
    "max_episode_steps": whole(1, 1_000_000),  # times 1000 frames still fits into ALE's 31 bits
    "repeat_action_probability": SHARE,
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
        :func:`~sb3_snd.common.precision.available_threads` returns
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
        numbers = dict(n_envs=n_envs, frame_size=frame_size, frame_skip=frame_skip, n_stack=n_stack, num_threads=num_threads)
        limits = dict(max_episode_steps=max_episode_steps, repeat_action_probability=repeat_action_probability)
        plain = checked({**numbers, **limits}, ARGUMENTS)
        n_envs, frame_size, frame_skip, n_stack = (plain[name] for name in ("n_envs", "frame_size", "frame_skip", "n_stack"))
        max_episode_steps = plain["max_episode_steps"]
        gym.register_envs(require("ale_py", "atari"))
        self.spec = find_spec(env_id, "ale_py.env:AtariEnv", "an Atari game")
        self.render_mode = None
        self.max_episode_frames = max_episode_steps * frame_skip
        from ale_py.vector_env import AtariVectorEnv

        self.envs: Any = AtariVectorEnv(
            self.spec.kwargs["game"],
            n_envs,
            num_threads=plain["num_threads"] or min(available_threads(), n_envs),
            # At its limit ALE stops before it reads the last screen, so its limit is one frame more than ours: see step_wait
            max_num_frames_per_episode=self.max_episode_frames + 1,
            repeat_action_probability=plain["repeat_action_probability"],
            full_action_space=self.spec.kwargs.get("full_action_space", False),
            autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
            img_height=frame_size,
            img_width=frame_size,
            stack_num=n_stack,
            frameskip=frame_skip,
            noop_max=0,
            reward_clipping=False,
            use_fire_reset=False,
        )
        observation_space = spaces.Box(0, 255, (n_stack, frame_size, frame_size), np.uint8)
        super().__init__(n_envs, observation_space, spaces.Discrete(len(self.envs.ale.get_action_set())))
        self.zero_padded_stack = n_stack
        self._newest = np.zeros((n_envs, frame_size, frame_size), np.uint8)
        self._stepping = False
        self.frame_skip = frame_skip
        self.repeat_action_probability = plain["repeat_action_probability"]
        self._started: list[int] | None = None  # seeds of the last reset, until the first step after it
        self._followers: list[Any] = []

    def reset(self) -> np.ndarray:
        """
        Start a new episode in all environments, with the seeds given to ``seed`` since the last reset.

        :return: observations ``(n_envs, n_stack, frame_size, frame_size)`` uint8
        """
        if self._stepping:
            self.step_wait()  # otherwise ALE would return the results of this step in place of those of the next
        # ALE accepts 31 bits, and -1 for no new seed
        seeds = [-1 if seed is None else seed % 2**31 for seed in self._seeds]
        obs, _ = self.envs.reset(seed=np.array(seeds))
        if set(seeds) != {-1}:
            self._started, self._followers = seeds, []
        for follower in self._followers:
            follower.reset_game()
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
        self._stepping, self._started = True, None
        meanings = self.envs.ale.get_action_set() if self._followers else ()
        for follower, action in zip(self._followers, actions, strict=False):  # while the C++ threads step the environments
            for _ in range(self.frame_skip):
                if not follower.game_over(with_truncation=False):
                    follower.act(meanings[action])

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
        for i in np.flatnonzero(terminated):
            terminal[i] = info["final_obs"][i].copy()  # (n_stack, frame_size, frame_size); other rows are undefined
            terminal[i][-1] = self._newest[i]
        if truncated.any():
            terminal.update((i, obs[i].copy()) for i in np.flatnonzero(truncated))
            obs, info = self.envs.reset(options={"reset_mask": truncated})
        self._newest = obs[:, -1]
        self._check_followers(terminated, truncated)

        infos: list[dict[str, Any]] = [
            {"lives": lives, "TimeLimit.truncated": out_of_time}
            for lives, out_of_time in zip(info["lives"].tolist(), truncated.tolist(), strict=True)
        ]
        for i, terminal_obs in terminal.items():
            infos[i]["terminal_observation"] = terminal_obs
        return obs, rewards.astype(np.float32), terminated | truncated, infos

    def follow(self, n_envs: int) -> bool:
        """
        Replay the first environments in additional emulators until they get other seeds.

        ALE's vector environment does not give access to the games' memory. Emulators with the same seeds and
        actions do, and their games proceed identically.

        :param n_envs: Maximum number of environments to replay
        :return: whether this is possible: the game must be in ``ROOM_BYTES``, and the environments must have
            been seeded and not stepped since
        """
        game = self.spec.kwargs["game"]
        if self._followers:
            return True
        if game not in ROOM_BYTES or self._started is None:
            return False
        from ale_py import ALEInterface, LoggerMode, roms

        ALEInterface.setLoggerMode(LoggerMode.Error)
        for seed in self._started[:n_envs]:
            follower = ALEInterface()
            follower.setInt("random_seed", seed)
            follower.setFloat("repeat_action_probability", self.repeat_action_probability)
            follower.loadROM(str(roms.get_rom_path(game)))
            follower.reset_game()
            self._followers.append(follower)
        return True

    def get_places(self) -> list[int | None]:
        """
        Read the room numbers from the emulators that replay the environments.

        :return: room number of each agent; None for environments that are not replayed, see :meth:`follow`
        """
        byte = ROOM_BYTES[self.spec.kwargs["game"]]
        rooms: list[int | None] = [int(follower.getRAM()[byte]) for follower in self._followers]
        return rooms + [None] * (self.num_envs - len(rooms))

    def _check_followers(self, terminated: np.ndarray, truncated: np.ndarray) -> None:
        for follower, ended, cut in zip(self._followers, terminated, truncated, strict=False):
            if follower.game_over(with_truncation=False) != ended:
                warnings.warn("The additional emulators no longer match the environments: places are unknown from now on.")
                self._followers = []
                return
            if ended or cut:
                follower.reset_game()

    def close(self) -> None:
        """Stop the C++ threads."""
        self.envs.ale = None


class VecPositiveReward(VecEnvWrapper):
    """
    Compute the learner's reward as in the paper: 1 if the game's reward is positive, else 0.

    :param venv: Vector environment
    """

    keeps_frames = True
    reward = "positive"  #: key of :data:`REWARDS`

    def reset(self) -> VecEnvObs:
        """
        Reset the environments.

        :return: observations, unchanged
        """
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the results of the step.

        :return: the environments' results, with the learner's rewards ``(n_envs,)`` float32
        """
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, REWARDS[self.reward](rewards).astype(np.float32), dones, infos


class VecSignReward(VecPositiveReward):
    """
    Compute the learner's reward as in DQN: the sign of the game's reward.

    :param venv: Vector environment
    """

    reward = "sign"


def make_atari_env(env_id: str, n_envs: int = 1, seed: int | None = None, reward: str = "positive", **kwargs: Any) -> VecEnv:
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
    seed, reward = checked({"seed": seed, "reward": reward}, ARGUMENTS).values()
    venv = AtariVecEnv(env_id, n_envs, **kwargs)
    venv.seed(seed)
    monitored = VecMonitor(venv)
    wrapper = {"positive": VecPositiveReward, "sign": VecSignReward}.get(reward)
    return monitored if wrapper is None else wrapper(monitored)


class _LastTwoScreens(AtariPreprocessing):
    """
    Gymnasium's preprocessing, but with the maximum over the last two screens of a step even if the episode
    ends in it.

    Gymnasium reads only the screens of the last two frames of a full step, and none after the end of an
    episode. Its terminal observation would therefore contain the previous step.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Repeat an action and read every screen.

        :param action: Action to repeat
        :return: observation ``(frame_size, frame_size, 1)`` uint8, summed reward, terminated, truncated, info
        """
        total_reward = 0.0
        self.obs_buffer[0].fill(0)  # contains a screen of the previous step
        for _ in range(self.frame_skip):
            _, reward, terminated, truncated, info = self.env.step(action)
            total_reward += float(reward)
            self.obs_buffer.reverse()  # the older screen is overwritten
            self.ale.getScreenGrayscale(self.obs_buffer[0])
            if terminated or truncated:
                break
        return self._get_obs(), total_reward, terminated, truncated, info


class AtariWrapper(gym.Wrapper):
    """
    Preprocess one Atari environment as in the paper, for ``make_vec_env`` and the RL Zoo
    (``env_wrapper: sb3_snd.envs.AtariWrapper``).

    With frames stacked afterwards, it returns the same as ``make_atari_env``, but with channels-last frames.
    It follows the pattern of Stable-Baselines3's ``AtariWrapper`` (MIT licence).

    The time limit is set in the emulator and not by a wrapper, because ``make_vec_env`` puts ``Monitor``
    beneath this wrapper. ``Monitor`` then sees the truncation and reports the episode's raw score. Its
    episode lengths are in raw frames.

    .. note::
        Sticky actions are a feature of the emulator and must be requested when the environment is made:
        ``make_vec_env(env_id, env_kwargs={"repeat_action_probability": 0.25}, wrapper_class=AtariWrapper)``.

    :param env: Environment to wrap, without a frame skip of its own: ``"*NoFrameskip-v4"``, or made with
        ``frameskip=1``
    :param frame_size: Height and width of a frame in pixels
    :param frame_skip: Number of raw frames for which an action is repeated
    :param max_episode_steps: Number of agent steps after which an episode is truncated. None for the number
        given to ``gym.make``, which counts agent steps, too, or else 4500. The smaller limit applies
    :param reward: The learner's reward, ``"positive"``, ``"sign"`` or ``"raw"``, see :func:`make_atari_env`
    :raises ValueError: if an argument is invalid, or ``env`` is not an Atari game or repeats actions itself
    """

    def __init__(
        self,
        env: gym.Env,
        frame_size: int = 96,
        frame_skip: int = 4,
        max_episode_steps: int | None = None,
        reward: str = "positive",
    ):
        require("cv2", "atari")
        game: Any = env.unwrapped
        if not hasattr(game, "ale"):
            raise ValueError(f"{env} is not an Atari game: make it without AtariWrapper.")
        given = dict(frame_size=frame_size, frame_skip=frame_skip, reward=reward)
        frame_size, frame_skip, reward = checked(given, ARGUMENTS).values()
        if game._frameskip != 1:
            raise ValueError(
                f"{env} repeats actions itself, and AtariWrapper would repeat them again: make it with frameskip=1,"
                " and set frame_skip of AtariWrapper."
            )
        max_frames = _limit_time(env, max_episode_steps, frame_skip)
        game.ale.setInt("max_num_frames_per_episode", max_frames)
        game.load_game()  # the emulator applies settings when it loads a game
        env = _LastTwoScreens(env, noop_max=0, frame_skip=frame_skip, screen_size=frame_size, grayscale_newaxis=True)
        super().__init__(TransformReward(env, lambda raw: float(REWARDS[reward](raw))))
        self._ram = game.ale.getRAM
        self._room_byte = ROOM_BYTES.get(game.spec.kwargs["game"])

    def get_place(self) -> int | None:
        """
        Read the room number from the game's memory.

        :return: number of the room of the agent; None if the game is not in ``ROOM_BYTES``
        """
        return None if self._room_byte is None else int(self._ram()[self._room_byte])


def _limit_time(env: gym.Env, max_episode_steps: int | None, frame_skip: int) -> int:
    """
    Make the limits that ``gym.make(id, max_episode_steps=...)`` put around an environment count agent steps.

    :param env: Environment of raw frames
    :param max_episode_steps: Agent steps, if given by other means
    :param frame_skip: Number of raw frames per agent step
    :return: number of raw frames in the longest episode
    """
    limits: list[TimeLimit] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env)
        env = env.env
    steps = [limit._max_episode_steps for limit in limits]
    if max_episode_steps is not None or not steps:
        steps.append(MAX_EPISODE_STEPS if max_episode_steps is None else max_episode_steps)
    max_frames = frame_skip * min(checked({"max_episode_steps": n}, ARGUMENTS)["max_episode_steps"] for n in steps)
    for limit in limits:
        limit._max_episode_steps = max_frames
    return max_frames
