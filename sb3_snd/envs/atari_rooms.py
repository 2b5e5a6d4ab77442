"""
Room numbers of Atari games, and emulators that make them readable beside ALE's vector environment.

Knows ALE and the games' memory. Must not know any network, novelty or algorithm.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

#: game -> index of the byte, among the console's 128, that contains the room number.
#: Montezuma's Revenge, Private Eye and Venture: Anand et al., Unsupervised state representation learning in
#: Atari, arXiv 1906.08226 (mila-iqia/atari-representation-learning, ram_annotations.py).
#: Pitfall: according to its disassembly the scene number, which is 196 at the start, is at address $81
#: (samiam.org/blog/20130606.html).
#: No source is known for Gravitar and Solaris.
ROOM_BYTES = {"montezuma_revenge": 3, "private_eye": 92, "venture": 90, "pitfall": 1}


class ShadowEmulators:
    """
    Emulators that replay the first environments of an ``AtariVecEnv``, to read their games' memory.

    ALE's vector environment does not give access to this memory. Emulators with the same seeds and actions
    do, and their games proceed identically.

    :param game: ALE's name of the game, a key of :data:`ROOM_BYTES`
    :param seeds: Seed of each environment at its last reset; the environments have not been stepped since
    :param action_set: ALE's action of each action number
    :param frame_skip: Number of raw frames for which an action is repeated
    :param repeat_action_probability: Probability per raw frame that the emulator repeats the last action
    """

    def __init__(
        self,
        game: str,
        seeds: Sequence[int],
        action_set: Sequence[Any],
        frame_skip: int,
        repeat_action_probability: float,
    ) -> None:
        from ale_py import ALEInterface, LoggerMode, roms

        self.room_byte = ROOM_BYTES[game]
        self.action_set = action_set
        self.frame_skip = frame_skip
        self.emulators: list[Any] = []
        ALEInterface.setLoggerMode(LoggerMode.Error)
        for seed in seeds:
            emulator = ALEInterface()
            emulator.setInt("random_seed", seed)
            emulator.setFloat("repeat_action_probability", repeat_action_probability)
            emulator.loadROM(str(roms.get_rom_path(game)))
            emulator.reset_game()
            self.emulators.append(emulator)

    def reset(self) -> None:
        """Reset all games, as the environments are reset without new seeds."""
        for emulator in self.emulators:
            emulator.reset_game()

    def step(self, actions: np.ndarray) -> None:
        """
        Repeat the environments' actions.

        :param actions: Actions of the environments, ``(n_envs,)`` integers
        """
        for emulator, action in zip(self.emulators, actions, strict=False):
            for _ in range(self.frame_skip):
                if not emulator.game_over(with_truncation=False):
                    emulator.act(self.action_set[action])

    def reset_ended(self, terminated: np.ndarray, truncated: np.ndarray) -> bool:
        """
        Reset the games whose episodes have ended, after checking that the same games are over here.

        :param terminated: Whether the game of each environment was over, ``(n_envs,)`` bool
        :param truncated: Whether it reached the time limit, ``(n_envs,)`` bool
        :return: False if another game is over here; then the emulators no longer match the environments
        """
        for emulator, over, out_of_time in zip(self.emulators, terminated, truncated, strict=False):
            if emulator.game_over(with_truncation=False) != over:
                return False
            if over or out_of_time:
                emulator.reset_game()
        return True

    def get_rooms(self) -> list[int]:
        """
        Read the room numbers from the games' memory.

        :return: room number of the agent in each replayed environment
        """
        return [int(emulator.getRAM()[self.room_byte]) for emulator in self.emulators]
