// A client on grpc-js: decodes refusals' ErrorInfo, asks reflection and health. Run by "interop".
//
// usage: node client.js HOST:PORT PROTO-FOLDER CERTIFICATES-FOLDER VM-ID STORED-VM-ID
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const [address, protoFolder, certs, vmId, storedId] = process.argv.slice(2);
const read = (name) => fs.readFileSync(path.join(certs, name));
const credentials = (name) =>
  grpc.credentials.createSsl(read('ca.pem'), read(`${name}-key.pem`), read(`${name}.pem`));

const api = grpc.loadPackageDefinition(
  loader.loadSync(['checkpoint', 'virtual_machine', 'agent'].map((n) => `vmcheckpoint/v1/${n}.proto`), {
    includeDirs: [protoFolder], enums: String, longs: Number,
  })).vmcheckpoint.v1;

// google/rpc/status.proto and error_details.proto, as far as they are needed here.
const rpc = protobuf.parse(`syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }`, { keepCase: true }).root;

function errorInfo(error) {
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  if (!bytes) throw new Error(`no grpc-status-details-bin with: ${error.message}`);
  const status = rpc.lookupType('google.rpc.Status').decode(bytes);
  const any = status.details.find((d) => d.type_url === 'type.googleapis.com/google.rpc.ErrorInfo');
  return { code: status.code, ...rpc.lookupType('google.rpc.ErrorInfo').decode(any.value) };
}

const call = (client, method, request) => new Promise((resolve, reject) =>
  client[method](request, { deadline: Date.now() + 30000 }, (error, reply) => (error ? reject(error) : resolve(reply))));

async function refusal(client, method, request) {
  try {
    await call(client, method, request);
  } catch (error) {
    return { error, info: errorInfo(error) };
  }
  throw new Error('it was accepted');
}

function equal(got, wanted) {
  if (got !== wanted) throw new Error(`got "${got}", wanted "${wanted}"`);
}

// Both known by heart: reflection is what tells everything else.
const reflectionProto = protobuf.parse(`syntax = "proto3"; package grpc.reflection.v1alpha;
  message ServerReflectionRequest { string host = 1; oneof message_request { string list_services = 7; } }
  message ServiceResponse { string name = 1; }
  message ListServiceResponse { repeated ServiceResponse service = 1; }
  message ServerReflectionResponse { ListServiceResponse list_services_response = 6; }
  service ServerReflection {
    rpc ServerReflectionInfo(stream ServerReflectionRequest) returns (stream ServerReflectionResponse);
  }`).root;

function listServices() {
  const type = (name) => reflectionProto.lookupType(`grpc.reflection.v1alpha.${name}`);
  const client = new grpc.Client(address, credentials('viewer'));
  return new Promise((resolve, reject) => {
    const stream = client.makeBidiStreamRequest(
      '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
      (m) => Buffer.from(type('ServerReflectionRequest').encode(m).finish()),
      (bytes) => type('ServerReflectionResponse').decode(bytes), null,
      { deadline: Date.now() + 30000 });
    stream.on('data', (reply) => {
      resolve(reply.listServicesResponse.service.map((s) => s.name));
      stream.end();
    });
    stream.on('error', reject);
    stream.write({ listServices: '*' });
  }).finally(() => client.close());
}

const operator = new api.CheckpointService(address, credentials('operator'));
const viewer = new api.CheckpointService(address, credentials('viewer'));
const create = (client, id, more) => refusal(client, 'CreateCheckpoint',
  { options: { requestId: crypto.randomUUID() }, vmId: id, ...more });

const tests = {
  async grpc_js_decodes_that_a_vm_is_unknown() {
    const id = crypto.randomUUID();
    const { error, info } = await create(operator, id);
    equal(error.code, grpc.status.NOT_FOUND);
    equal(info.code, grpc.status.NOT_FOUND);
    equal(info.reason, 'VM_NOT_FOUND');
    equal(info.domain, 'vmcheckpoint');
    equal(info.metadata.vm_id, id);
  },
  async grpc_js_decodes_that_a_vm_is_stored_in_a_library() {
    const { error, info } = await create(operator, storedId);
    equal(error.code, grpc.status.FAILED_PRECONDITION);
    equal(info.reason, 'VM_STORED_IN_LIBRARY');
    equal(info.metadata.library, 'archive');
  },
  async grpc_js_decodes_that_a_viewer_may_not_create() {
    const { error, info } = await create(viewer, vmId);
    equal(error.code, grpc.status.PERMISSION_DENIED);
    equal(info.reason, 'ACCESS_DENIED');
  },
  async grpc_js_decodes_which_field_is_wrong() {
    const { error, info } = await create(operator, 'web-01');
    equal(error.code, grpc.status.INVALID_ARGUMENT);
    equal(info.reason, 'INVALID_ARGUMENT');
    equal(info.metadata.field, 'vm_id');
  },
  async grpc_js_lists_with_the_published_fields() {
    const { checkpoints } = await call(operator, 'ListCheckpoints', { filter: { vmId } });
    equal(checkpoints.length, 1);
    equal(checkpoints[0].checkpointName, 'from buf');
    equal(checkpoints[0].accessibility, 'ACCESSIBILITY_PUBLIC');
    equal(checkpoints[0].vmName, 'web-01');
  },
  async grpc_js_finds_all_services_through_reflection() {
    const names = await listServices();
    for (const name of ['Checkpoint', 'VirtualMachine', 'Operation', 'Lease', 'Agent'])
      if (!names.includes(`vmcheckpoint.v1.${name}Service`)) throw new Error(`no ${name}Service in ${names}`);
    for (const name of ['grpc.health.v1.Health', 'grpc.reflection.v1alpha.ServerReflection'])
      if (!names.includes(name)) throw new Error(`no ${name} in ${names}`);
  },
  async grpc_js_without_a_certificate_is_refused() {
    const nobody = new api.CheckpointService(address, grpc.credentials.createSsl(read('ca.pem')));
    try {
      await call(nobody, 'ListCheckpoints', {});
    } catch (error) {
      equal(error.code, grpc.status.UNAVAILABLE);
      return;
    } finally {
      nobody.close();
    }
    throw new Error('it was let in');
  },
};

(async () => {
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      console.log(`ok   ${name}`);
    } catch (error) {
      console.log(`FAIL ${name}: ${error.message}`);
    }
  }
  operator.close();
  viewer.close();
})();
