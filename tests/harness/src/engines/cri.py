"""One call of the CRI: cri.py DESCRIPTORS SOCKET METHOD, the request as JSON on stdin, the answer as JSON on stdout.

Exits 1 with the server's message on stderr when the call fails. DESCRIPTORS comes from `protoc --descriptor_set_out`.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

descriptors, socket, method = sys.argv[1:4]
pool = descriptor_pool.DescriptorPool()
files = descriptor_pb2.FileDescriptorSet()
with open(descriptors, "rb") as f:
    files.ParseFromString(f.read())
for f in files.file:
    pool.Add(f)
service = pool.FindServiceByName("runtime.v1.RuntimeService")
call = service.FindMethodByName(method)
factory = message_factory.MessageFactory(pool)
request = json_format.ParseDict(json.load(sys.stdin), factory.GetPrototype(call.input_type)())
answer = factory.GetPrototype(call.output_type)
with grpc.insecure_channel("unix://" + socket) as channel:
    stub = channel.unary_unary(
        "/runtime.v1.RuntimeService/" + method,
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    try:
        out = stub(request, timeout=60)
    except grpc.RpcError as e:
        print(f"{e.code().name}: {e.details()}", file=sys.stderr)
        sys.exit(1)
json.dump(json_format.MessageToDict(out, including_default_value_fields=True, preserving_proto_field_name=True), sys.stdout)
