export W=${W:-/tmp/w} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0 VLLM_USE_FLASHINFER_SAMPLER=0 JAX_PLATFORMS=cpu
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} VLLM_CACHE_ROOT=$W/vc
S=$W/s; mkdir -p $W/logs $W/rows $W/out
early() { export PYTHONPATH=$S:$W/code:/tmp/whl; cd $W/code; }
kit() { export PYTHONPATH=$S:$W/code:/tmp/site:/tmp/whl; cd $W/code; }
now() { echo $(( $(date +%s) - $(cat $W/t0) )); }
said() { echo "[$(now)s] $*" >> $W/state; }
wait_for() { local end=$((SECONDS + $1)); shift; until "$@" 2>/dev/null; do ((SECONDS > end)) && return 1; sleep 0.5; done; }
up() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
# engines: seed 1 on GPU 0, seed 2 on GPU 1, the universe on GPU 0
E1=${E1-"8001 8002 8003"}; E2=${E2-"8011 8012 8013"}; E3=${E3-"8021 8022"}
R1=15051; R2=15052; R3=15053
urls() { local u= p; for p in "$@"; do u+=${u:+,}http://127.0.0.1:$p; done; echo $u; }
[[ -e $W/engines ]] && . $W/engines; true
