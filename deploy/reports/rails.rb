# The reports of an application with Rails: see docs/guides/rails.md.
require "json"
require "openssl"
require "securerandom"
require "socket"

def report_keys(instance, keys, sign_off: false)
  ActiveRecord::Base.connection_pool.with_connection do |connection|
    nonce, at = connection.select_rows("SELECT nonce, at FROM keyrotation.report_nonce").first
    named = keys.to_h { |key| [OpenSSL::Digest::SHA256.hexdigest("keyrotation-key-fingerprint-v1" + key), key] }
    text = JSON.generate(nonce: nonce, at: at, reads: named.keys, writes: named.keys.last, names_primary: true,
                         farewell: sign_off)
    proofs = named.map do |name, key|
      derived = OpenSSL::KDF.hkdf(key, salt: "", info: "keyrotation-possession-v1", length: 32, hash: "SHA256")
      "#{name}=#{OpenSSL::HMAC.hexdigest("SHA256", derived, "#{name}\n#{instance}\n#{text}")}"
    end
    row = [instance, text, proofs.join(" ")].map { |each| connection.quote(each) }
    connection.execute("INSERT INTO keyrotation.instance_reports (instance, report, proofs) VALUES (#{row.join(", ")})")
  end
end

def keep_reporting(keys)
  instance = "#{Socket.gethostname}-#{Process.pid}-#{SecureRandom.hex(8)}"
  Thread.new do
    loop do
      report_keys(instance, keys)
    rescue StandardError => error
      warn "the instance could not report itself: #{error.class}"
    ensure
      sleep 15
    end
  end
  at_exit { report_keys(instance, keys, sign_off: true) }
end
