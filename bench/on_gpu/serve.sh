# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
start_retriever
start_reader
wait
