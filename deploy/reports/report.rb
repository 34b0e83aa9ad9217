# The report of an instance: see docs/guides/other-languages.md.
require "json"
require "openssl"

def report(instance, nonce, at, keys, primary, sign_off = false)
  content = {nonce: nonce, at: at, reads: keys.keys, writes: primary, names_primary: true}
  text = JSON.generate(sign_off ? content.merge(farewell: true) : content)
  proofs = keys.map do |version, key|
    derived = OpenSSL::KDF.hkdf(key.unpack1("m"), salt: "", info: "keyrotation-possession-v1", length: 32, hash: "SHA256")
    "#{version}=#{OpenSSL::HMAC.hexdigest("SHA256", derived, "#{version}\n#{instance}\n#{text}")}"
  end
  [text, proofs.join(" ")]
end
