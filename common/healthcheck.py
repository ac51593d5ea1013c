"""`python -m common.healthcheck HOST:PORT` exits 0 if the gRPC service there is healthy."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

try:
    with grpc.insecure_channel(sys.argv[1], options=[("grpc.enable_http_proxy", 0)]) as channel:
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3).status
except grpc.RpcError as error:
    sys.exit(f"{sys.argv[1]}: {error.code().name}")
sys.exit(status != health_pb2.HealthCheckResponse.SERVING)
