export W=${W:-/tmp/w} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0 VLLM_USE_FLASHINFER_SAMPLER=0 JAX_PLATFORMS=cpu
export RP=${RP:-50051} RETRIEVER=127.0.0.1:${RP:-50051}
export TOKENIZERS_PARALLELISM=false SAVE_FREQ=5 OMP_NUM_THREADS=8
S=$W/s; mkdir -p $W/logs $W/out
early() { export PYTHONPATH=$W/code:/tmp/whl; }
kit() { export PYTHONPATH=$W/code:/tmp/site:/tmp/whl; }
now() { echo $(( $(date +%s) - $(cat $W/t0) )); }
said() { echo "[$(now)s] $*" >> $W/state; }
NG=$(nvidia-smi -L 2>/dev/null | grep -c GPU); NG=${NG:-1}; LAST=$((NG - 1))
