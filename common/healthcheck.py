"""`python -m common.healthcheck HOST:PORT` exits with status 0 if the gRPC service there is healthy."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_OPTIONS = (("grpc.enable_http_proxy", 0),)  # as common.client has it, which takes long to import


def main(arguments: list[str]) -> int | str:
    """Returns the exit status, or the message of a failure."""
    if len(arguments) != 1:
        return "usage: python -m common.healthcheck HOST:PORT"
    (target,) = arguments
    try:
        with grpc.insecure_channel(target, options=_OPTIONS) as channel:
            status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3).status
    except grpc.RpcError as error:
        return f"{target}: {error.code().name}"
    return int(status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
