// Reads and writes stored values with node's crypto (OpenSSL), sharing no code with the project.
//
//   node crosscheck.mjs vectors.json
//
// Decrypts every frozen value and compares; then prints, as JSON, the same texts encrypted again under the same
// versions: [{"name": …, "stored": …}].

import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import assert from "node:assert/strict";

const TAG_BYTES = 16;

function open(keys, stored) {
  const [version, nonce, body] = stored.split(":");
  const bytes = Buffer.from(body, "base64");
  const decipher = createDecipheriv("aes-256-gcm", Buffer.from(keys[version], "base64"), Buffer.from(nonce, "base64"));
  decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
  return Buffer.concat([decipher.update(bytes.subarray(0, -TAG_BYTES)), decipher.final()]).toString("utf8");
}

function seal(keys, version, plaintext, nonce = randomBytes(12)) {
  const cipher = createCipheriv("aes-256-gcm", Buffer.from(keys[version], "base64"), nonce);
  const body = Buffer.concat([cipher.update(plaintext, "utf8"), cipher.final(), cipher.getAuthTag()]);
  return `${version}:${nonce.toString("base64")}:${body.toString("base64")}`;
}

const { keys, values, large } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const sealed = [];

for (const { name, plaintext, stored } of values) {
  assert.equal(open(keys, stored), plaintext, name);
  sealed.push({ name, stored: seal(keys, stored.split(":")[0], plaintext) });
}
for (const { name, version, nonce, unit, count, stored_sha256 } of large) {
  const stored = seal(keys, version, unit.repeat(count), Buffer.from(nonce, "base64"));
  assert.equal(createHash("sha256").update(stored).digest("hex"), stored_sha256, name);
  assert.equal(open(keys, stored), unit.repeat(count), name);
}
console.log(JSON.stringify(sealed));
