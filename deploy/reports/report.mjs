// The report of an instance: see docs/guides/other-languages.md.
import { createHmac, hkdfSync } from "node:crypto";

export function report(instance, nonce, at, keys, primary, signOff) {
  const content = { nonce, at, reads: Object.keys(keys), writes: primary, names_primary: true };
  const report = JSON.stringify(signOff ? { ...content, farewell: true } : content);
  const proofs = Object.entries(keys).map(([version, key]) => {
    const derived = hkdfSync("sha256", Buffer.from(key, "base64"), "", "keyrotation-possession-v1", 32);
    const proof = createHmac("sha256", Buffer.from(derived)).update(`${version}\n${instance}\n${report}`);
    return `${version}=${proof.digest("hex")}`;
  });
  return [report, proofs.join(" ")];
}
