"""extract.py CHECKPOINTS START OUT PREFIX: each new checkpoint's LoRA adapter as OUT/PREFIX-STEP, in float16; for ever, or once with ONCE=1."""
import json, os, shutil, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
checkpoints, start, out, prefix = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
want = load_file(str(start / "adapter_model.safetensors"))
while True:
    mark = checkpoints / "latest_checkpointed_iteration.txt"
    last = int(mark.read_text()) if mark.exists() and mark.read_text().strip() else 0
    for folder in sorted(checkpoints.glob("global_step_*"), key=lambda p: int(p.name.rsplit("_", 1)[1])):
        step = int(folder.name.rsplit("_", 1)[1]); to = out / f"{prefix}-{step}"
        if step > last or to.exists(): continue
        t = time.time()
        state = torch.load(folder / "actor" / "model_world_size_1_rank_0.pt", map_location="cpu", weights_only=False)
        found = {}
        for name, w in state.items():
            if "lora_" in name:
                w = w._local_tensor if hasattr(w, "_local_tensor") else w
                found[name.replace(".default.", ".").replace("_fsdp_wrapped_module.", "")] = w.detach().half().contiguous()
        if set(found) != set(want): print("names differ", sorted(set(found) ^ set(want))[:4], flush=True)
        draft = out / f"{prefix}-{step}.draft"; shutil.rmtree(draft, ignore_errors=True); draft.mkdir(parents=True)
        save_file(found, str(draft / "adapter_model.safetensors"), metadata={"format": "pt"})
        shutil.copy(start / "adapter_config.json", draft)
        draft.rename(to)
        moved = max((found[n].float() - want[n].float()).abs().max().item() for n in found if n in want)
        print(f"{to.name}: {len(found)} tensors, largest change {moved:.5f}, {time.time() - t:.1f} s", flush=True)
        for old in checkpoints.glob("global_step_*"):  # the newest two are enough to resume from
            if int(old.name.rsplit("_", 1)[1]) < step - 2 * int(os.environ.get("SAVE_FREQ", "5")): shutil.rmtree(old, ignore_errors=True)
    if os.environ.get("ONCE"): break
    time.sleep(2)
