#!/usr/bin/env bash
. "$(dirname "$0")/env.sh"
while sleep 8; do echo "[$(now)s] load $(cut -d' ' -f1 /proc/loadavg) gpu $(nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits | tr '\n' ';')" >> $W/beat; done
