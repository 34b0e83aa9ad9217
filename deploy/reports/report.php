<?php
// The report of an instance: see docs/guides/other-languages.md.
function report(string $instance, string $nonce, string $at, array $keys, string $primary, bool $sign_off = false): array {
    $reads = array_keys($keys);
    $content = ["nonce" => $nonce, "at" => $at, "reads" => $reads, "writes" => $primary, "names_primary" => true];
    $report = json_encode($sign_off ? $content + ["farewell" => true] : $content);
    $proofs = [];
    foreach ($keys as $version => $key) {
        $derived = hash_hkdf("sha256", base64_decode($key, true), 32, "keyrotation-possession-v1");
        $proofs[] = "$version=" . hash_hmac("sha256", "$version\n$instance\n$report", $derived);
    }
    return [$report, implode(" ", $proofs)];
}
