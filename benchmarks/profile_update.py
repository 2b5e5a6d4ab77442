"""
The ten most expensive operations of one iteration, by PyTorch's profiler, with the shapes they work on.

``python benchmarks/profile_update.py --algo ppo_snd`` takes the model of the YAML entry, with fewer steps.
"""

import argparse

import torch as th
from schedule_env import NOT_OF_THE_MODEL, make_env, read_entry
from torch.profiler import ProfilerActivity, profile

from sb3_snd import PPOSND


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
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--rows", type=int, default=10)
    args = parser.parse_args()
    entry = read_entry(args.algo, args.env)
    kwargs = {name: value for name, value in entry.items() if name not in NOT_OF_THE_MODEL}
    kwargs.update(n_steps=args.n_steps, n_epochs=args.n_epochs, seed=0, device=args.device, cuda_graphs=args.cuda_graphs)
    env = make_env(entry, args.env, entry["n_envs"], seed=0)
    model, size = PPOSND(env=env, **kwargs), args.n_steps * entry["n_envs"]
    model.learn(size, log_interval=10)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * th.cuda.is_available()
    with profile(activities=activities, record_shapes=True) as profiler:
        model.learn(size, log_interval=10, reset_num_timesteps=False)
    env.close()
    print(table(profiler, args.rows))


if __name__ == "__main__":
    main()
