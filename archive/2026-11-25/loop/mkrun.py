"""mkrun.py FOLDER SEED [FIELD=YAML ...]: FOLDER/config.yaml, the run `multihop` as it is for the GPU time; prepares its data with PREPARE=1."""
import asyncio, os, sys
from pathlib import Path
import yaml
from common import run_config
W = os.environ["W"]
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
v = "verl.+actor_rollout_ref.rollout.engine_kwargs.vllm"
fields = {
    "base_model": f"{W}/base", "adapter": f"{W}/start", "seed": seed, "data.questions": f"{W}/qa_rl.jsonl.gz", "data.validation": 32, "gate.questions": f"{W}/qa_dev.jsonl.gz",
    "retriever": os.environ.get("RETRIEVER", "127.0.0.1:50051"), "generator": os.environ.get("GENERATOR", "127.0.0.1:50053"),
    "stop.mixed_groups": None, "stop.choice_entropy": None, "stop.coverage_rise": None,
    f"{v}.kernel_config": {"enable_flashinfer_autotune": False}, f"{v}.kv_cache_memory_bytes": 20000000000,
    "verl.actor_rollout_ref.rollout.max_num_batched_tokens": 16384, "verl.actor_rollout_ref.rollout.agent.num_workers": 4,
    "verl.actor_rollout_ref.actor.shuffle": True, "verl.actor_rollout_ref.actor.fsdp_config.reshard_after_forward": False,
    "verl.trainer.val_before_train": False, "verl.trainer.test_freq": -1, "verl.trainer.save_freq": int(os.environ.get("SAVE_FREQ", "5")), "verl.trainer.total_training_steps": 400,
}
fields |= {f: yaml.safe_load(x) for f, _, x in (a.partition("=") for a in sys.argv[3:])}
run = run_config.load("multihop", fields)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(run_config.dump(run))
if os.environ.get("PREPARE"):
    from learning import train
    asyncio.run(train._prepare(run, folder / "data"))
    print(sorted(p.name for p in (folder / "data").iterdir()))
