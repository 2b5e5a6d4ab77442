"""What ``PPOSND.load`` reads before it builds a model: the saved arguments, and those that replace them.

Knows SB3's zip files, but no network.
"""

import io
import json
import pathlib
import zipfile
from typing import Any

from stable_baselines3.common.save_util import json_to_data, open_path

from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.make import check_snd_kwargs


def read_data(path: str | pathlib.Path | io.BufferedIOBase) -> dict[str, Any]:
    """
    Read the attributes of a saved model as they are stored, without unpickling any.

    :param path: File that ``save`` wrote; an open file is rewound
    :return: stored attributes by name
    :raises ValueError: if ``PPOSND`` did not save the file
    """
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            data = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, ValueError):
        data = {}
    finally:
        if file is not path:
            file.close()
    if "snd_target" not in data:
        raise ValueError(f"{path} was not saved by PPOSND: load it with the algorithm that wrote it.")
    if isinstance(path, io.BufferedIOBase):
        path.seek(0)
    return data


def use_given_snd(path: Any, data: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """
    Let the arguments ``snd`` and ``snd_kwargs`` of ``load`` replace the saved ones, in place.

    :param path: The file, for error messages
    :param data: Result of :func:`read_data`
    :param kwargs: Keyword arguments of ``load``, which replace attributes of the model
    :raises ValueError: if the model was saved with another target
    """
    snd = kwargs.get("snd")
    if isinstance(snd, IntrinsicReward):
        kwargs.update(snd_target=snd.spec, snd_kwargs=snd.init_kwargs)
    elif "snd" in kwargs:
        kwargs["snd_target"] = kwargs.pop("snd")
    # Other arguments keep their saved values
    if not isinstance(snd, IntrinsicReward) and {"snd_kwargs", "episodic"} & set(kwargs):
        saved_data = json_to_data(json.dumps({"snd_kwargs": data["snd_kwargs"]}), kwargs.get("custom_objects"))
        saved_kwargs = saved_data["snd_kwargs"]
        kwargs["snd_kwargs"] = {**saved_kwargs, **check_snd_kwargs(kwargs.get("snd_kwargs"))}
        factor, asked_factor = saved_kwargs.get("episodic"), kwargs["snd_kwargs"].get("episodic")
        asked_factor = kwargs.pop("episodic", asked_factor)
        if asked_factor != factor:
            raise ValueError(
                f"{path} was saved with episodic={factor!r}, which cannot be changed to {asked_factor!r}: omit episodic."
            )
    asked, saved = kwargs.get("snd_target", data["snd_target"]), data["snd_target"]
    if asked != saved and (asked is None or isinstance(asked, str)):
        shown = repr(saved) if saved is None or isinstance(saved, str) else "a class of its own"
        raise ValueError(f"{path} was saved with snd={shown}, which cannot be changed to snd={asked!r}: omit snd.")
