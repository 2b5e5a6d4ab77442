"""
A wrapper for one ordinary Atari environment, with the preprocessing of :mod:`sb3_snd.envs.atari`.

Knows ALE and Gymnasium's preprocessing. Must not know any network, novelty or algorithm.
"""

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, TimeLimit, TransformReward

from sb3_snd.common.extras import require
from sb3_snd.common.validation import validate
from sb3_snd.envs.atari import MAX_EPISODE_STEPS, RULES
from sb3_snd.envs.atari_rewards import REWARDS
from sb3_snd.envs.atari_rooms import ROOM_BYTES


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
        given = validate(dict(frame_size=frame_size, frame_skip=frame_skip, reward=reward), RULES)
        frame_size, frame_skip = given["frame_size"], given["frame_skip"]
        learner_reward = REWARDS[given["reward"]]
        if game._frameskip != 1:
            raise ValueError(
                f"{env} repeats actions itself, and AtariWrapper would repeat them again:"
                " make it with frameskip=1, and set frame_skip of AtariWrapper."
            )
        max_frames = _limit_time(env, max_episode_steps, frame_skip)
        game.ale.setInt("max_num_frames_per_episode", max_frames)
        game.load_game()  # the emulator applies settings when it loads a game
        env = _LastTwoScreens(
            env,
            noop_max=0,
            frame_skip=frame_skip,
            screen_size=frame_size,
            grayscale_newaxis=True,
        )
        super().__init__(TransformReward(env, lambda raw: float(learner_reward(raw))))
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
    shortest = min(validate({"max_episode_steps": n}, RULES)["max_episode_steps"] for n in steps)
    max_frames = frame_skip * shortest
    for limit in limits:
        limit._max_episode_steps = max_frames
    return max_frames
