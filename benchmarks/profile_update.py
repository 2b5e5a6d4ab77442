"""
The ten most expensive operations of one iteration, by PyTorch's profiler, with the shapes they work on.

``python benchmarks/profile_update.py --algo ppo_snd`` takes the model as ``train.py`` builds it, with fewer steps.
"""

import argparse
import contextlib
import io
import tempfile

import torch as th
from torch.profiler import ProfilerActivity, profile

from sb3_snd.zoo import SNDExperimentManager, register


def table(profiler: profile, n_rows: int) -> str:
    """
    :param profiler: What it saw
    :param n_rows: How many operations
    :return: a Markdown table
    """
    events = profiler.key_averages(group_by_input_shape=True)
    whole = sum(event.self_cpu_time_total + event.self_device_time_total for event in events)
    lines = ["| operation | on | calls | ms | share |", "|---|---|---:|---:|---:|"]
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total - event.self_device_time_total)[:n_rows]:
        time = event.self_cpu_time_total + event.self_device_time_total  # in microseconds
        shapes = ", ".join("x".join(map(str, shape)) for shape in event.input_shapes if len(shape) > 1)
        lines.append(f"| `{event.key}` | {shapes} | {event.count} | {time / 1e3:.0f} | {100 * time / whole:.0f} % |")
    return "\n".join(lines)


def main() -> None:
    """Train for one iteration unobserved, then for one observed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", default="ppo_snd")
    parser.add_argument("--env", default="MontezumaRevengeNoFrameskip-v4")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-steps", type=int, default=16)
    parser.add_argument("--n-epochs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=10)
    args = parser.parse_args()
    register()
    hyperparams = dict(n_steps=args.n_steps, n_epochs=args.n_epochs)
    options = dict(hyperparams=hyperparams, seed=0, verbose=0, device=args.device, eval_freq=-1)
    with tempfile.TemporaryDirectory() as folder:
        manager = SNDExperimentManager(args, args.algo, args.env, folder, **options)
        with contextlib.redirect_stdout(io.StringIO()):
            experiment = manager.setup_experiment()
        assert experiment is not None
        model = experiment[0]
        size = args.n_steps * model.n_envs
        model.learn(size, log_interval=10)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * th.cuda.is_available()
        with profile(activities=activities, record_shapes=True) as profiler:
            model.learn(size, log_interval=10, reset_num_timesteps=False)
    print(table(profiler, args.rows))


if __name__ == "__main__":
    main()
