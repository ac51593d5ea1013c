# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
[[ -f $work/reranker/config.json ]] && export RETRIEVER_RERANKER=$work/reranker
start_retriever
start_reader
naive=direct,naive_rag:top_k=8
for size in 1 2 3; do naive+=,naive_rag:top_k=$size,naive_rag:mode=hybrid:top_k=$size; done
for name in "${@:3}"; do
    if [[ -f $work/$name/config.json ]]; then # a model of which all weights were trained
        start_engine searcher $searcher "$(vllm_arguments 4000000000)" GENERATOR_MODEL="$work/$name" \
            GENERATOR_CONTEXT_TOKENS=8192 GENERATOR_ADAPTER_RANK=0
        listens searcher $searcher
    else
        [[ $name = smollm2 ]] || load "$name"
        start_generator searcher $searcher "$name"
    fi
    start_gateway $reader "$(methods_of_the_demo)"
    more= reranked=
    if serves_reranker "$work/reranker"; then
        more=,s3:rerank=20,s3:mode=hybrid:rerank=20
        for kind in rerank=20 mode=hybrid:rerank=20; do reranked+=,naive_rag:$kind:top_k=1,naive_rag:$kind; done
    fi
    evaluate "compare-$name" "s3,s3:mode=hybrid$more" --limit 1500
    evaluate compare-naive "$naive$reranked" --limit 1500
    stop
    stop
done
