"""Hyperparameter search for ``PPOSND`` in the Zoo (``sb3-snd train -optimize``): what is sampled, and what is kept
from the entry.

Knows Optuna's trials, the Zoo's search and the arguments of ``PPOSND``. Must not know environments or YAML
files.
"""

from collections.abc import Mapping
from pprint import pprint
from typing import Any

from sb3_snd.common.extras import require

require("rl_zoo3", "zoo")

# isort: split
import optuna
import rl_zoo3
import rl_zoo3.exp_manager
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

#: names stored by Optuna that the Zoo's sampler of PPO does not have -> bounds of a log-uniform distribution
SND_SEARCH_SPACE = {
    "eta": (0.01, 100.0),
    "one_minus_gamma_int": (0.001, 0.1),
    "ext_coef": (0.5, 8.0),
    "int_coef": (0.1, 2.0),
    "snd_learning_rate": (1e-5, 2e-3),
}
FADES = "int_coef_fades"  # whether the weight of the bonus decays to 0 during training
#: arguments that accept schedules, by the dict that contains them; None for direct arguments of the algorithm
SCHEDULED = {None: ("ext_coef", "int_coef"), "snd_kwargs": ("eta", "learning_rate")}
N_STEPS_POW = (5, 12)  # same bounds as in the Zoo
BATCH_SIZE_POW = (6, 10)  # bounds of the Zoo, without minibatches too small for SND's losses
ROLLOUT = 2**14  # maximum number of transitions in a rollout, as in the paper


#: hyperparameters that may be strings with Python expressions: those that the Zoo evaluates, and ours
EXPRESSIONS = (
    *("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs", "normalize"),
    *("snd_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs"),
)


class BoundedTrial:
    """
    A trial that samples some integers from other bounds than requested: the Zoo's sampler hard-codes them.

    :param trial: Optuna's trial
    :param bounds: parameter -> smallest and largest value
    """

    def __init__(self, trial: optuna.Trial, bounds: Mapping[str, tuple[int, int]]) -> None:
        self._trial = trial
        self._bounds = bounds

    def suggest_int(self, name: str, low: int, high: int, **kwargs: Any) -> int:
        """
        Sample an integer from the bounds of this object, if it has bounds for the parameter.

        :param name: Name of the parameter
        :param low: Smallest value if this object has no bounds for it
        :param high: Largest value if this object has no bounds for it
        :param kwargs: Additional arguments of ``optuna.Trial.suggest_int``
        :return: sampled value
        """
        return self._trial.suggest_int(name, *self._bounds.get(name, (low, high)), **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def size_bounds(n_envs: int) -> dict[str, tuple[int, int]]:
    """
    Compute bounds for which every minibatch size divides the size of a rollout. Both are powers of two, apart
    from odd factors of ``n_envs``.

    :param n_envs: Number of environments
    :return: bounds of the exponents of ``n_steps`` and ``batch_size``
    """
    twos = 0  # exponent of 2 in the factorisation of n_envs
    while n_envs % 2 ** (twos + 1) == 0:
        twos += 1
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
    Sample PPO's hyperparameters as the Zoo does, and unless the entry has ``snd: null`` those of the second
    stream and SND.

    :param trial: Optuna's trial
    :param n_actions: See the Zoo's sampler
    :param n_envs: Number of environments
    :param additional_args: See the Zoo's sampler
    :param entry: Hyperparameters without the search; values in its nested dicts are kept, see :func:`merged`
    :return: arguments of ``PPOSND``
    """
    bounded: Any = BoundedTrial(trial, size_bounds(n_envs))
    sampled = HYPERPARAMS_SAMPLER["ppo"](bounded, n_actions, n_envs, additional_args)
    entry = entry or {}
    if "snd" in entry and entry["snd"] is None:
        return merged(entry, sampled)
    own: dict[str, Any] = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in SND_SEARCH_SPACE.items()}
    own[FADES] = trial.suggest_categorical(FADES, [False, True])
    trial.set_user_attr("gamma_int", 1 - own["one_minus_gamma_int"])
    return merged(entry, {**sampled, **with_schedules(_convert_own(own))})


def convert_ppo_snd_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Convert what Optuna stores of a trial to arguments of ``PPOSND``.

    :param sampled_params: Parameters stored by Optuna
    :return: arguments of ``PPOSND``; those of the second stream only if they were sampled
    """
    ppo = {name: value for name, value in sampled_params.items() if name not in (*SND_SEARCH_SPACE, FADES)}
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
    Replace strings such as ``lin_0.5``, a linear schedule from 0.5 to 0, with the Zoo's schedules.

    :param hyperparams: Hyperparameters of an entry
    :return: copy with schedules for the arguments in ``SCHEDULED``
    """
    read = ExperimentManager._preprocess_schedules
    found = dict(hyperparams)
    for owner, names in SCHEDULED.items():
        holder = found if owner is None else found.get(owner)
        if not isinstance(holder, Mapping):
            continue
        # The Zoo's function only knows the names of PPO's arguments
        schedules = {
            name: read({"learning_rate": holder[name]})["learning_rate"] for name in names if isinstance(holder.get(name), str)
        }
        found.update(schedules if owner is None else {owner: {**holder, **schedules}})
    return found


def with_all_schedules(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """
    Apply :func:`with_schedules` to an entry and to the arguments of a ``VecIntrinsicReward`` in its
    ``vec_env_wrapper``.

    :param hyperparams: Hyperparameters of an entry
    :return: copy with schedules
    """
    found = with_schedules(hyperparams)
    wrappers = found.get("vec_env_wrapper")
    if isinstance(wrappers, list):
        found["vec_env_wrapper"] = [_with_schedules_in_wrapper(wrapper) for wrapper in wrappers]
    elif wrappers:
        found["vec_env_wrapper"] = _with_schedules_in_wrapper(wrappers)
    return found


def _with_schedules_in_wrapper(wrapper: Any) -> Any:
    if not isinstance(wrapper, dict):
        return wrapper
    return {
        name: with_schedules(kwargs or {}) if name.endswith(".VecIntrinsicReward") else kwargs
        for name, kwargs in wrapper.items()
    }


def evaluated(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """
    Evaluate hyperparameters that are strings with Python expressions, in the Zoo's own namespace.

    :param hyperparams: Hyperparameters as in a YAML file
    :return: copy in which strings in ``EXPRESSIONS`` are evaluated
    :raises ValueError: if a string is not a valid Python expression
    """
    plain = dict(hyperparams)
    for name in EXPRESSIONS:
        text = plain.get(name)
        if isinstance(text, str):
            try:
                plain[name] = eval(text, dict(vars(rl_zoo3.exp_manager)))
            except Exception as error:  # an expression may raise anything
                raise ValueError(f"{name}={text!r} must be a Python expression, such as 'dict(a=1)': {error}.") from error
    return plain


def merged(entry: Mapping[str, Any], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """
    Merge sampled hyperparameters into the nested dicts of an entry.

    :param entry: Hyperparameters of the entry
    :param sampled: Sampled hyperparameters, which take precedence
    :return: ``sampled``, with the remaining values of the entry's ``snd_kwargs`` and ``policy_kwargs``
    """
    names = [name for name in ("snd_kwargs", "policy_kwargs") if name in sampled]
    nested = {name: {**(entry.get(name) or {}), **sampled[name]} for name in names}
    return {**sampled, **nested}


def load_trial(manager: ExperimentManager, trial_id: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """
    Load the hyperparameters of a trial and print them.

    :param manager: Manager with a storage, a study and an algo key
    :param trial_id: Number of the trial
    :param entry: Hyperparameters without the search; values in its nested dicts are kept, see :func:`merged`
    :return: arguments of the algorithm
    :raises ValueError: if the study or trial does not exist, or the trial lacks hyperparameters
    """
    assert manager.storage and manager.study_name
    try:
        if trial_id < 0:
            raise IndexError("trials are counted from 0")
        loaded = merged(entry, manager.load_trial(manager.storage, manager.study_name, trial_id))
    except (LookupError, OSError) as error:
        raise ValueError(
            f"Trial {trial_id} of the study {manager.study_name!r} in {manager.storage} has no hyperparameters for"
            f" {manager.algo} ({error}): choose a completed trial."
        ) from error
    print(f"Hyperparameters of trial {trial_id} of the study {manager.study_name!r}:")
    pprint(loaded)
    return loaded
