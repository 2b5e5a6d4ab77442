"""
Does the fast path compute on this device what the plain one does? ``python benchmarks/check_cuda.py`` ends in an error if not.

CI has no GPU, so what only a GPU can show is asserted here: recorded acting and updates against those that are not, uploaded
stacks against the environment's, fused Adam on channels-last weights against the plain one.
"""

import argparse
from typing import Any

import numpy as np
import torch as th
from schedule_env import NOT_OF_THE_MODEL, StillEnv, make_env, read_entry

from sb3_snd import PPOSND
from sb3_snd.common.cuda_graphs import can_record
from sb3_snd.rewards.training import RewardTrainer

ENV = "MontezumaRevengeNoFrameskip-v4"


def make_model(algo: str, device: str, cuda_graphs: bool, precision: str = "float32") -> PPOSND:
    """
    :param algo: Algo key
    :param device: PyTorch device
    :param cuda_graphs: The model's argument
    :param precision: Likewise
    :return: a model of the entry with small sizes on environments that cost nothing
    """
    entry = read_entry(algo, ENV)
    kwargs = {name: value for name, value in entry.items() if name not in NOT_OF_THE_MODEL}
    kwargs.update(n_steps=8, batch_size=32, n_epochs=2, precision=precision, seed=0, device=device, cuda_graphs=cuda_graphs)
    return PPOSND(env=StillEnv(make_env(entry, ENV, 8, seed=0), seed=0), **kwargs)


def compare(before: list[th.Tensor], plain: th.nn.Module, fast: th.nn.Module) -> tuple[float, float]:
    """
    :param before: Parameters before the update
    :param plain: After it
    :param fast: After the other one
    :return: largest distance of a parameter in the second from the first, against how far the update moved it, and the least
        such move against the parameter's norm
    """
    distances, moves = [], []
    named = zip(before, plain.named_parameters(), fast.parameters(), strict=True)
    for old, (name, parameter), other in named:
        # VICReg does not see the last bias of its target, and RND's target is trained by nothing
        if name == "target.encoder.9.bias" or not parameter.requires_grad:
            continue
        move = (parameter - old).norm()
        distances.append(((other - parameter).norm() / move).item())
        moves.append(move.item())
    assert np.isfinite(distances).all() and np.isfinite(moves).all(), "something is not finite"
    return max(distances), min(moves)


def snd_trainer(model: PPOSND) -> RewardTrainer:
    assert model.snd is not None and model.snd.trainer is not None
    return model.snd.trainer


def copy_(into: PPOSND, model: PPOSND) -> None:
    """
    :param into: Gets the other's nets, optimisers and rollout, in place, so that nothing has to be recorded anew
    :param model: Of the same sizes
    """
    for part, other in ((into.policy, model.policy), (into.snd, model.snd)):
        assert part is not None and other is not None
        part.load_state_dict(other.state_dict())
    optimizers = [(each.policy.optimizer, snd_trainer(each).optimizer) for each in (into, model)]
    for optimizer, other_optimizer in zip(*optimizers, strict=True):
        pairs = zip(optimizer.state.values(), other_optimizer.state.values(), strict=True)
        for state, other_state in pairs:
            for name, value in state.items():
                value.copy_(other_state[name])
    for name in ("actions", "values", "log_probs", "rewards", "advantages", "returns", "episode_starts"):
        setattr(into.rollout_buffer, name, getattr(model.rollout_buffer, name).copy())
    for memory, other_memory in zip(into.rollout_buffer.memory(), model.rollout_buffer.memory(), strict=True):
        memory.copy_(other_memory)


def check_update(algo: str, device: str, precision: str, tolerance: float) -> None:
    """
    The same update on the same rollout, plain and recorded, after others that were the warm-up, with another learning rate.

    :param algo: Algo key
    :param device: PyTorch device
    :param precision: The models' argument
    :param tolerance: Of distances, against how far the update moves a parameter
    """
    plain, fast = (make_model(algo, device, cuda_graphs, precision) for cuda_graphs in (False, True))
    for model in (plain, fast):
        model.learn(4 * 64, log_interval=10)
    assert plain.snd is not None and fast.snd is not None
    copy_(fast, plain)
    pairs = (("policy", plain.policy, fast.policy), ("SND", plain.snd, fast.snd))
    before = [[parameter.detach().clone() for parameter in module.parameters()] for _, module, _ in pairs]
    for model in (plain, fast):
        model.lr_schedule = lambda _: 3e-4
        np.random.seed(1)
        th.manual_seed(1)
        model.train()
    for (name, one, other), old in zip(pairs, before, strict=True):
        distance, move = compare(old, one, other)
        print(f"{algo}, {precision}: {name} {distance:.1e} of the update apart; least move {move:.1e}", flush=True)
        # random numbers of a recording need not be those of the plain calls
        draws = name == "SND" and algo in ("ppo_rnd", "ppo_snd_v")
        assert move > 0 and (draws or distance < tolerance)
    if can_record(fast.device):
        replays = fast._update._step, snd_trainer(fast)._replay, fast._actor.replay
        assert all(replay is not None and replay.is_recorded for replay in replays)

    obs = th.as_tensor(fast.env.reset()).to(fast.device)  # type: ignore[union-attr]
    acts = [fast._actor.act(obs) for _ in range(6)]
    assert len({tuple(actions.tolist()) for actions, _, _ in acts}) > 1, "every replay draws the same actions"
    actions, values, log_probs = acts[-1]
    with th.no_grad():
        again = fast.policy.evaluate_actions(obs, actions)
    th.testing.assert_close((values, log_probs), again[:2], rtol=1e-2, atol=1e-2)


def check_upload(device: str) -> None:
    """
    :param device: PyTorch device
    """
    model = make_model("ppo_snd_vic", device, cuda_graphs=True)
    model.learn(64, log_interval=10)
    env = StillEnv(make_env(read_entry("ppo_snd_vic", ENV), ENV, 8, seed=0), seed=0)
    shown: list[Any] = [env.reset(), *(env.step(np.zeros(8, dtype=int))[0] for _ in range(7))]
    stored = model.rollout_buffer.store.read(th.arange(64)).cpu().numpy()
    assert np.array_equal(stored, np.concatenate(shown)), "uploaded stacks differ from the environment's"
    print("uploaded stacks are those of the environment", flush=True)


def check_adam(device: str) -> None:
    """
    :param device: PyTorch device
    """
    th.manual_seed(0)
    weights = [th.randn(32, 1, 3, 3), th.randn(64, 32, 3, 3)]
    results = []
    for fused in (True, None):
        parameters = [th.nn.Parameter(weight.to(device, memory_format=th.channels_last)) for weight in weights]
        optimizer = th.optim.Adam(parameters, lr=1e-2, fused=fused)
        for step in range(3):
            for index, parameter in enumerate(parameters):
                gradient = th.sin(weights[index] * (step + 1)).to(device)
                parameter.grad = gradient.to(memory_format=th.channels_last) if index else gradient  # one channel is both
            optimizer.step()
        results.append(parameters)
    for fused, plain in zip(*results, strict=True):
        th.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    print("fused Adam steps channels-last weights as the plain one does", flush=True)


def main() -> None:
    """All checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--algo", nargs="+", default=["ppo_snd_vic", "ppo_snd_std", "ppo_snd_v", "ppo_rnd"])
    args = parser.parse_args()
    th.backends.cudnn.allow_tf32 = False
    check_adam(args.device)
    check_upload(args.device)
    for algo in args.algo:
        check_update(algo, args.device, "float32", 0.1)
    check_update(args.algo[0], args.device, "auto", 0.5)  # as it is measured; bfloat16 where the device has it


if __name__ == "__main__":
    main()
