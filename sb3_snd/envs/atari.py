"""
Atari games, in two ways: ALE's own vector environment as a ``VecEnv``, and a wrapper for one ordinary environment.

Knows ALE, Gymnasium's Atari ids and the preprocessing of the paper (arXiv 2302.11563): the action repeated on 4 raw
frames, the max of the last two, grey, 96x96, sticky actions, no no-ops at reset, no fire reset, no end on a lost life.
Must not know any network, novelty or algorithm.
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

from sb3_snd.arguments import SHARE, checked, one_of, whole
from sb3_snd.envs import native
from sb3_snd.envs.native import NativeVecEnv, find_spec
from sb3_snd.extras import require
from sb3_snd.hardware import available_threads
from sb3_snd.preprocessing import MIN_FRAME_SIZE

#: game -> the byte of the console's 128 that holds the number of the room. Montezuma's Revenge, Private Eye and Venture: Anand
#: et al., Unsupervised state representation learning in Atari, arXiv 1906.08226 (mila-iqia/atari-representation-learning,
#: ram_annotations.py). Pitfall: its disassembly keeps the number of the scene at address $81, 196 at the start
#: (samiam.org/blog/20130606.html). No source is known for Gravitar and Solaris.
ROOM_BYTES = {"montezuma_revenge": 3, "private_eye": 92, "venture": 90, "pitfall": 1}

#: what the learner gets for a step, of one game's reward or of an array of them: 1 where it is positive, else 0, as in the
#: paper; its sign, as in DQN (Mnih et al., Human-level control through deep reinforcement learning, 2015); as it is
REWARDS: dict[str, Callable[[Any], Any]] = {
    "positive": lambda reward: np.maximum(0.0, np.sign(reward)),
    "sign": np.sign,
    "raw": lambda reward: reward,
}
MAX_EPISODE_STEPS = 4500  # the paper's

#: ALE ends the process, or waits forever, over some of the others
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

    Observations are ``(n_envs, n_stack, frame_size, frame_size)`` uint8, the newest frame last; after a reset the frames
    before the newest are zero. Rewards are the game's own, not clipped. Every info has ``"lives"``, those of the
    observation returned with it, so after an end those of the new episode.

    The terminal observation of an episode that the time limit ends is exact. Where the game itself ends, ALE has already
    reset before the last screen can be read (and where the game ends in the last raw frame, ALE mixes a screen of this
    step into the newest frame of the step before); there the newest frame of the terminal observation is that of the step
    before, once more. ``AtariWrapper`` has the true one.

    :param env_id: Gymnasium id of an Atari game, such as ``"MontezumaRevengeNoFrameskip-v4"``. The game and its action
        set are taken from it, all else is given by the arguments below
    :param n_envs: Number of environments
    :param frame_size: Side of the square frames
    :param frame_skip: Number of raw frames an action is repeated for
    :param n_stack: Number of frames in an observation
    :param max_episode_steps: Number of agent steps after which an episode is truncated
    :param repeat_action_probability: Probability, at each raw frame, that the emulator keeps the last action
    :param num_threads: Number of C++ threads; 0 for as many as :func:`~sb3_snd.hardware.available_threads` counts
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
            # ALE stops at its limit before it reads the last screen, so its limit lies one frame past ours: see step_wait
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
        self._started: list[int] | None = None  # the seeds of a reset that no step has followed yet
        self._followers: list[Any] = []

    def reset(self) -> np.ndarray:
        """
        Start a new episode everywhere, with the seeds given to ``seed`` since the last reset.

        :return: observations ``(n_envs, n_stack, frame_size, frame_size)`` uint8
        """
        if self._stepping:
            self.step_wait()  # otherwise ALE would hand out the step's results later, as those of the next
        # ALE wants 31 bits, and -1 for no new seed
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
        Send the actions to the C++ threads and return at once.

        :param actions: ``(n_envs,)`` integers
        """
        # A wrong action kills ALE's thread silently, and step_wait would never return
        actions = self.check_actions(actions)
        self.envs.send(actions)
        self._stepping, self._started = True, None
        meanings = self.envs.ale.get_action_set() if self._followers else ()
        for follower, action in zip(self._followers, actions, strict=False):  # while the others step in their threads
            for _ in range(self.frame_skip):
                if not follower.game_over(with_truncation=False):
                    follower.act(meanings[action])

    def step_wait(self) -> VecEnvStepReturn:
        """
        Collect what ``step_async`` started.

        :return: observations ``(n_envs, n_stack, frame_size, frame_size)`` uint8, in memory that no later step touches;
            rewards ``(n_envs,)`` float32; dones ``(n_envs,)`` bool; infos
        """
        obs, rewards, terminated, _, info = self.envs.recv()
        self._stepping = False
        # Where the game ended, ALE has reset already, and the frame number is 0
        truncated = info["episode_frame_number"] >= self.max_episode_frames  # (n_envs,)
        terminal = {}
        for i in np.flatnonzero(terminated):
            terminal[i] = info["final_obs"][i].copy()  # (n_stack, frame_size, frame_size), other rows hold anything
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
        Replay what the first environments do in emulators of their own, from now on until they get other seeds: ALE's vector
        environment does not show the games' memory, but emulators with the same seeds and actions go the same way.

        :param n_envs: How many, at most
        :return: whether that is possible: of this game a room's byte is known, and the environments were seeded and not
            stepped since
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
        :return: the number of the room that each agent is in; None where the environment is not followed, see :meth:`follow`
        """
        byte = ROOM_BYTES[self.spec.kwargs["game"]]
        rooms: list[int | None] = [int(follower.getRAM()[byte]) for follower in self._followers]
        return rooms + [None] * (self.num_envs - len(rooms))

    def _check_followers(self, terminated: np.ndarray, truncated: np.ndarray) -> None:
        for follower, ended, cut in zip(self._followers, terminated, truncated, strict=False):
            if follower.game_over(with_truncation=False) != ended:
                warnings.warn("Emulators that followed the environments have lost them: places are known no longer.")
                self._followers = []
                return
            if ended or cut:
                follower.reset_game()

    def close(self) -> None:
        """End the C++ threads."""
        self.envs.ale = None


class VecPositiveReward(VecEnvWrapper):
    """
    The learner's reward in the paper: 1 where the game's is positive, else 0.

    :param venv: The vectorized environment
    """

    keeps_frames = True
    reward = "positive"  #: which of :data:`REWARDS`

    def reset(self) -> VecEnvObs:
        """
        :return: observations as they are
        """
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: the environment's results with the learner's rewards ``(n_envs,)`` float32
        """
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, REWARDS[self.reward](rewards).astype(np.float32), dones, infos


class VecSignReward(VecPositiveReward):
    """
    DQN's clipping: the learner's reward is the sign of the game's.

    :param venv: The vectorized environment
    """

    reward = "sign"


def make_atari_env(env_id: str, n_envs: int = 1, seed: int | None = None, reward: str = "positive", **kwargs: Any) -> VecEnv:
    """
    The paper's Atari environments; whatever the learner's reward is, ``infos[i]["episode"]["r"]`` is the raw score.

    :param env_id: Gymnasium id of an Atari game, such as ``"MontezumaRevengeNoFrameskip-v4"``
    :param n_envs: Number of environments
    :param seed: Environment ``i`` is seeded with ``seed + i``; drawn from numpy's global generator if None
    :param reward: What the learner gets for a step: ``"positive"``, as in the paper, 1 where the game's reward is positive and
        0 otherwise; ``"sign"``, as in DQN, -1, 0 or 1, for games that punish; ``"raw"``, the game's reward as it is
    :param kwargs: Other arguments of ``AtariVecEnv``
    :return: The vectorized environment
    """
    seed, reward = checked({"seed": seed, "reward": reward}, ARGUMENTS).values()
    venv = AtariVecEnv(env_id, n_envs, **kwargs)
    venv.seed(seed)
    monitored = VecMonitor(venv)
    wrapper = {"positive": VecPositiveReward, "sign": VecSignReward}.get(reward)
    return monitored if wrapper is None else wrapper(monitored)


class _LastTwoScreens(AtariPreprocessing):
    """
    Gymnasium's preprocessing, with the max over the last two screens of the step also where an episode ends inside
    the repeat. Gymnasium reads the screens of the repeat's last two frames only, and none once the episode has
    ended, so that the step before shines through the terminal observation.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        :param action: The action to repeat
        :return: observation ``(frame_size, frame_size, 1)`` uint8, summed reward, terminated, truncated, info
        """
        total_reward = 0.0
        self.obs_buffer[0].fill(0)  # the screen of the step before
        for _ in range(self.frame_skip):
            _, reward, terminated, truncated, info = self.env.step(action)
            total_reward += float(reward)
            self.obs_buffer.reverse()  # the older screen makes room
            self.ale.getScreenGrayscale(self.obs_buffer[0])
            if terminated or truncated:
                break
        return self._get_obs(), total_reward, terminated, truncated, info


class AtariWrapper(gym.Wrapper):
    """
    One Atari environment preprocessed as in the paper, for ``make_vec_env`` and the RL Zoo
    (``env_wrapper: sb3_snd.envs.AtariWrapper``); frame stacking follows. It gives what ``make_atari_env`` gives, in
    channels-last frames. It follows the pattern of Stable-Baselines3's ``AtariWrapper`` (MIT licence).

    The time limit is set in the emulator and not by a wrapper, because ``make_vec_env`` puts ``Monitor`` beneath this
    wrapper: it then sees the truncation and reports the episode's raw score (its lengths are in raw frames).

    .. note::
        Sticky actions are the emulator's own, to be asked for where the environment is made:
        ``make_vec_env(env_id, env_kwargs={"repeat_action_probability": 0.25}, wrapper_class=AtariWrapper)``.

    :param env: Environment to wrap, without frame skip of its own: ``"*NoFrameskip-v4"``, or made with ``frameskip=1``
    :param frame_size: Side of the square frames
    :param frame_skip: Number of raw frames an action is repeated for
    :param max_episode_steps: Number of agent steps after which an episode is truncated; None for that which ``gym.make`` was
        given, which means agent steps too, else 4500. Where both are given, the smaller holds
    :param reward: What the learner gets for a step, ``"positive"``, ``"sign"`` or ``"raw"``, see :func:`make_atari_env`
    :raises ValueError: if an argument is not allowed, or the environment is no Atari game or repeats actions itself
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
                f"{env} repeats actions itself, and AtariWrapper would repeat them once more: make it with frameskip=1,"
                " and tell AtariWrapper the frame_skip."
            )
        max_frames = _limit_time(env, max_episode_steps, frame_skip)
        game.ale.setInt("max_num_frames_per_episode", max_frames)
        game.load_game()  # the emulator reads its settings when a game is loaded
        env = _LastTwoScreens(env, noop_max=0, frame_skip=frame_skip, screen_size=frame_size, grayscale_newaxis=True)
        super().__init__(TransformReward(env, lambda raw: float(REWARDS[reward](raw))))
        self._ram = game.ale.getRAM
        self._room_byte = ROOM_BYTES.get(game.spec.kwargs["game"])

    def get_place(self) -> int | None:
        """
        :return: the number of the room that the agent is in; None for games of which no byte is known, see ``ROOM_BYTES``
        """
        return None if self._room_byte is None else int(self._ram()[self._room_byte])


def _limit_time(env: gym.Env, max_episode_steps: int | None, frame_skip: int) -> int:
    """
    Let the limits that ``gym.make(id, max_episode_steps=...)`` put around an environment count agent steps.

    :param env: Environment of raw frames
    :param max_episode_steps: Agent steps, if they are given otherwise
    :param frame_skip: Raw frames in one of them
    :return: raw frames in the longest episode
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
