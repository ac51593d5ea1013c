# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
all=s3,naive_rag,direct,cot,ircot,search_o1,search_r1,search_r1:answerer=searcher,deep_retrieval
start_retriever
start_reader
start_generator searcher $searcher smollm2
start_gateway $reader '{}'
evaluate evaluate "$all,naive_rag:mode=bm25,naive_rag:mode=hybrid" --limit 500 --budget 3
evaluate evaluate "$all,naive_rag:top_k=1,naive_rag:top_k=8" --limit 500
