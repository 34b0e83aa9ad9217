// The report of an instance: see docs/guides/other-languages.md.
class Report {
    static byte[] hmac(byte[] key, byte[] text) throws java.security.GeneralSecurityException {
        var mac = javax.crypto.Mac.getInstance("HmacSHA256");
        mac.init(new javax.crypto.spec.SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text);
    }

    static String[] report(String instance, String nonce, String at, java.util.SortedMap<String, String> keys, String primary,
            boolean signOff) throws java.security.GeneralSecurityException {
        var report = "{\"nonce\":\"%s\",\"at\":\"%s\",\"reads\":[\"%s\"],\"writes\":\"%s\",\"names_primary\":true%s}"
            .formatted(nonce, at, String.join("\",\"", keys.keySet()), primary, signOff ? ",\"farewell\":true" : "");
        var proofs = new java.util.StringJoiner(" ");
        for (var each : keys.entrySet()) {
            // HKDF of one block: extract with a salt of zeros, then expand.
            var extracted = hmac(new byte[32], java.util.Base64.getDecoder().decode(each.getValue()));
            var derived = hmac(extracted, "keyrotation-possession-v1\u0001".getBytes());
            var proof = hmac(derived, (each.getKey() + "\n" + instance + "\n" + report).getBytes());
            proofs.add(each.getKey() + "=" + java.util.HexFormat.of().formatHex(proof));
        }
        return new String[] {report, proofs.toString()};
    }
}
