# MPS for this machine's processes, if two of them run under it
. "$(dirname "$0")/env.sh"; P() { timeout 40 env CUDA_VISIBLE_DEVICES=$1 python3 $S/mps_test.py; }
P 0 > $W/logs/mps-0.log 2>&1
P 0 > $W/logs/mps-1a.log 2>&1 & P 0 > $W/logs/mps-1b.log 2>&1 & P 0 > $W/logs/mps-1c.log 2>&1 & wait
export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mpslog; mkdir -p /tmp/mps /tmp/mpslog; timeout 10 nvidia-cuda-mps-control -d > $W/logs/mps.log 2>&1; rc=$?
P 0 > $W/logs/mps-2a.log 2>&1 & a=$!; P 0 > $W/logs/mps-2b.log 2>&1 & b=$!; P 0 > $W/logs/mps-2c.log 2>&1 & c=$!; P 1 > $W/logs/mps-2d.log 2>&1 & d=$!
wait $a && wait $b && wait $c && wait $d && ((rc == 0)) && touch $W/mps.ok
said "mps rc $rc ok $(ls $W/mps.ok 2>&1 | tail -n 1); alone $(cat $W/logs/mps-0.log | tail -n 1) three $(tail -qn 1 $W/logs/mps-1?.log | tr '\n' ' ') under mps $(tail -qn 1 $W/logs/mps-2?.log | tr '\n' ' ')"; touch $W/mps.done
