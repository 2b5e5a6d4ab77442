"""The Zoo's hyperparameter search, ``train.py -optimize``, for ``PPOSND``: what is tried, and what stays as in the entry.

Knows Optuna's trials, the Zoo's search and the arguments of ``PPOSND``; no environment, no YAML file.
"""

import contextlib
import functools
import io
from collections.abc import Mapping
from typing import Any

from sb3_snd.extras import require
from sb3_snd.ppo_snd import PPOSND

require("rl_zoo3", "zoo")

import optuna  # noqa: E402
import rl_zoo3  # noqa: E402
import rl_zoo3.exp_manager  # noqa: E402
from rl_zoo3.exp_manager import ExperimentManager  # noqa: E402
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER  # noqa: E402

#: of the names that Optuna stores, those that the Zoo's sampler of PPO does not have -> bounds, drawn on a logarithmic scale
OWN = {
    "eta": (0.01, 100.0),
    "one_minus_gamma_int": (0.001, 0.1),
    "ext_coef": (0.5, 8.0),
    "int_coef": (0.1, 2.0),
    "snd_learning_rate": (1e-5, 2e-3),
}
FADES = "int_coef_fades"  # whether the weight of the bonus falls to 0 in the course of training
#: what of the bonus may fade, by the argument that holds it, None for the algorithm's own
SCHEDULED = {None: ("ext_coef", "int_coef"), "snd_kwargs": ("eta", "learning_rate")}
N_STEPS_POW = (5, 12)  # the Zoo's bounds
BATCH_SIZE_POW = (6, 10)  # the Zoo's, without minibatches too small for a loss over a batch
ROLLOUT = 2**14  # transitions at most, as in the paper


#: hyperparameters that may be Python expressions in strings: the Zoo's, and ours, which it does not know
EXPRESSIONS = (
    *("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs", "normalize"),
    *("snd_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs"),
)


class BoundedTrial:
    """
    A trial that draws some integers within other bounds than it is asked for.

    :param trial: The trial
    :param bounds: Name -> smallest and largest
    """

    def __init__(self, trial: optuna.Trial, bounds: Mapping[str, tuple[int, int]]) -> None:
        self._trial = trial
        self._bounds = bounds

    def suggest_int(self, name: str, low: int, high: int, **kwargs: Any) -> int:
        """
        :param name: Of the parameter
        :param low: Smallest, where it has no bounds here
        :param high: Largest, where it has no bounds here
        :param kwargs: Further arguments of ``optuna.Trial.suggest_int``
        :return: what was drawn
        """
        return self._trial.suggest_int(name, *self._bounds.get(name, (low, high)), **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def size_bounds(n_envs: int) -> dict[str, tuple[int, int]]:
    """
    Every minibatch divides every rollout, since both are powers of two but for odd factors of ``n_envs``.

    :param n_envs: Number of environments
    :return: bounds of the exponents of ``n_steps`` and ``batch_size``
    """
    twos = (n_envs & -n_envs).bit_length() - 1  # how often 2 divides it
    steps = min(max((ROLLOUT // n_envs).bit_length() - 1, N_STEPS_POW[0]), N_STEPS_POW[1])
    batch = min(BATCH_SIZE_POW[1], steps + twos)
    return {
        "n_steps_pow": (max(N_STEPS_POW[0], batch - twos), steps),
        "batch_size_pow": (min(BATCH_SIZE_POW[0], batch), batch),
    }


def sample_ppo_snd_params(
    trial: optuna.Trial,
    n_actions: int,
    n_envs: int,
    additional_args: dict[str, Any],
    entry: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    The Zoo's sampler of PPO, and what the second stream and its nets add, unless the entry has ``snd: null``.

    :param trial: Optuna's trial
    :param n_actions: See the Zoo's sampler
    :param n_envs: Number of environments
    :param additional_args: See the Zoo's sampler
    :param entry: Hyperparameters without the search, of which those in nested dicts stay, see :func:`merged`
    :return: arguments of ``PPOSND``
    """
    bounded: Any = BoundedTrial(trial, size_bounds(n_envs))
    sampled = HYPERPARAMS_SAMPLER["ppo"](bounded, n_actions, n_envs, additional_args)
    entry = entry or {}
    if "snd" in entry and entry["snd"] is None:
        return merged(entry, sampled)
    own: dict[str, Any] = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in OWN.items()}
    own[FADES] = trial.suggest_categorical(FADES, [False, True])
    trial.set_user_attr("gamma_int", 1 - own["one_minus_gamma_int"])
    return merged(entry, {**sampled, **with_schedules(_convert_own(own))})


def convert_ppo_snd_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: As Optuna stores them
    :return: arguments of ``PPOSND``, of the second stream only where something of it was sampled
    """
    ppo = {name: value for name, value in sampled_params.items() if name not in (*OWN, FADES)}
    own = _convert_own(sampled_params) if ppo.keys() < sampled_params.keys() else {}
    return {**HYPERPARAMS_CONVERTER["ppo"](ppo), **own}


def _convert_own(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "gamma_int": 1 - params["one_minus_gamma_int"],
        "ext_coef": params["ext_coef"],
        "int_coef": f"lin_{params['int_coef']}" if params.get(FADES) else params["int_coef"],
        "snd_kwargs": {"eta": params["eta"], "learning_rate": params["snd_learning_rate"]},
    }


def with_schedules(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param hyperparams: Hyperparameters of an entry; in them ``lin_0.5`` stands for a linear schedule from 0.5 to 0
    :return: a copy with the Zoo's schedules in place of such words, for the weights of both streams and SND's settings
    """
    read = ExperimentManager._preprocess_schedules
    found = dict(hyperparams)
    for owner, names in SCHEDULED.items():
        holder = found if owner is None else found.get(owner)
        if not isinstance(holder, Mapping):
            continue
        # The Zoo's reader only knows PPO's names
        schedules = {
            name: read({"learning_rate": holder[name]})["learning_rate"] for name in names if isinstance(holder.get(name), str)
        }
        found.update(schedules if owner is None else {owner: {**holder, **schedules}})
    return found


def _with_schedules_in_wrappers(wrappers: Any) -> Any:
    """:return: what a YAML entry has as ``vec_env_wrapper``, with the schedules of ``VecIntrinsicReward``"""
    as_list = wrappers if isinstance(wrappers, list) else [wrappers]
    read = [
        {
            name: with_schedules(kwargs or {}) if name.endswith(".VecIntrinsicReward") else kwargs
            for name, kwargs in each.items()
        }
        if isinstance(each, dict)
        else each
        for each in as_list
    ]
    return read if isinstance(wrappers, list) else read[0]


def evaluated(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param hyperparams: As they stand in a YAML file
    :return: the same, with those of ``EXPRESSIONS`` evaluated that are strings, among the names that the Zoo has for its own
    :raises ValueError: if one is no Python expression
    """
    plain = dict(hyperparams)
    for name in EXPRESSIONS:
        text = plain.get(name)
        if isinstance(text, str):
            try:
                plain[name] = eval(text, dict(vars(rl_zoo3.exp_manager)))
            except Exception as error:  # whatever the expression raises
                raise ValueError(f"{name}={text!r} must be a Python expression, such as 'dict(a=1)': {error}.") from error
    return plain


class TrialNumber(int):
    """A number that is true even where it is 0: the Zoo tests it for truth."""

    def __bool__(self) -> bool:
        return True


def merged(entry: Mapping[str, Any], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param entry: Hyperparameters
    :param sampled: Those that take their place
    :return: ``sampled``, with what the entry's ``snd_kwargs`` and ``policy_kwargs`` have besides
    """
    names = [name for name in ("snd_kwargs", "policy_kwargs") if name in sampled]
    nested = {name: {**(entry.get(name) or {}), **sampled[name]} for name in names}
    return {**sampled, **nested}


class SearchManager(ExperimentManager):
    """
    The Zoo's manager, whose search would replace the entry's ``snd_kwargs`` and ``policy_kwargs`` as a whole, and which takes
    trial 0 for none. ``snd_kwargs`` may be a string, as ``policy_kwargs`` may in the Zoo.

    :param args: Arguments of ``ExperimentManager``, by position
    :param kwargs: Arguments of ``ExperimentManager``, by name
    :raises ValueError: if a trial is asked for and no study
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.trial_id is None:
            return
        if not (self.storage and self.study_name):
            raise ValueError(f"--trial-id {self.trial_id} must go with --storage and --study-name, which say of what study.")
        self.trial_id = TrialNumber(self.trial_id)

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        return super()._preprocess_hyperparams(evaluated(hyperparams))

    @property
    def _has_streams(self) -> bool:
        return rl_zoo3.ALGOS[self.algo] is PPOSND

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        """See ``ExperimentManager._preprocess_schedules``; the weights of the bonus and SND's settings take schedules, too."""
        hyperparams = with_schedules(ExperimentManager._preprocess_schedules(hyperparams))
        if hyperparams.get("vec_env_wrapper"):
            hyperparams["vec_env_wrapper"] = _with_schedules_in_wrappers(hyperparams["vec_env_wrapper"])
        return hyperparams

    def setup_experiment(self) -> Any:
        """
        See ``ExperimentManager.setup_experiment``.

        :return: model and hyperparameters, or None before a search
        """
        experiment = super().setup_experiment()
        if experiment is None and self._has_streams:
            HYPERPARAMS_SAMPLER[self.algo] = functools.partial(sample_ppo_snd_params, entry=self._hyperparams)
        return experiment

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        """
        See ``ExperimentManager.load_trial``.

        :param storage: Optuna's storage
        :param study_name: Name of the study
        :param trial_id: Number of the trial; None: the best
        :param convert: Whether to give arguments of the algorithm, not what Optuna stores
        :return: hyperparameters of a trial
        :raises ValueError: if there is no such study or trial, or it has not got all of them
        """
        try:
            if trial_id is not None and trial_id < 0:
                raise IndexError("trials are counted from 0")
            params = super().load_trial(storage, study_name, trial_id, convert)
        except (LookupError, OSError) as error:
            raise ValueError(
                f"Trial {trial_id} of the study {study_name!r} in {storage} has no hyperparameters for {self.algo} ({error}):"
                " choose one that was completed."
            ) from error
        if not (convert and self._has_streams):
            return params
        self.trial_id, wanted = None, self.trial_id
        with contextlib.redirect_stdout(io.StringIO()):
            entry, _ = ExperimentManager.read_hyperparameters(self)
        self.trial_id = wanted
        return merged(evaluated(entry), params)
