"""mkrun.py FOLDER BASE SEED [FIELD=YAML ...]: FOLDER/config.yaml, the run BASE as it is for the lease."""
import os, sys
from pathlib import Path
import yaml
from common import run_config
W = os.environ["W"]
folder, base, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
fields = {"base_model": f"{W}/base", "seed": seed, "stop.mixed_groups": None, "stop.choice_entropy": None, "generator": "127.0.0.1:50053"}
if base == "multihop": fields |= {"stop.coverage_rise": None, "data.questions": f"{W}/qa_mix.jsonl.gz", "gate.questions": f"{W}/qa_dev.jsonl.gz", "index": "joint", "reward.repeated_penalty": 0.25, "reward.malformed_penalty": 0.3, "reward.kept_penalty": 0.03}
else: fields |= {"data.questions": f"{W}/data/universe/qa_train.jsonl.gz", "gate.questions": f"{W}/data/universe/qa_dev.jsonl.gz", "reward.kept_penalty": 0.02, "reward.repeated_penalty": 0.2}
fields |= {f: yaml.safe_load(x) for f, _, x in (a.partition("=") for a in sys.argv[4:])}
run = run_config.load(base, fields)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(run_config.dump(run))
