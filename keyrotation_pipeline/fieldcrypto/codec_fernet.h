/* Fernet tokens: their MAC tells under which key each is. `codecs/fernet.py` is the reference.
 *
 * The URL-safe base64 of 0x80 ‖ time ‖ IV ‖ AES-128-CBC ciphertext ‖ HMAC-SHA256 of all before it. A key is a signing half
 * and an encrypting half.
 */

enum { HALF = 16, STAMP = 8, IV = 16, MAC = 32, BLOCK = 16, FERNET_HEAD = 1 + STAMP + IV, FRAME = FERNET_HEAD + MAC };
enum { SHORTEST_TOKEN_CHARS = (FRAME + BLOCK + 2) / 3 * 4 };

/* ---- OpenSSL's AES-128-CBC and HMAC: contexts keep their keys ---- */

static EVP_CIPHER_CTX *cbc(const uint8_t *key, int encrypts) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context && EVP_CipherInit_ex(context, EVP_aes_128_cbc(), NULL, key + HALF, NULL, encrypts) == 1 &&
        EVP_CIPHER_CTX_set_padding(context, 0) == 1)
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

/* The MAC of some bytes, by a context that begins again with the key that it has. */
static int mac_of(EVP_MAC_CTX *context, const uint8_t *data, size_t bytes, uint8_t *mac) {
    size_t size;
    return EVP_MAC_init(context, NULL, 0, NULL) == 1 && EVP_MAC_update(context, data, bytes) == 1 &&
           EVP_MAC_final(context, mac, &size, MAC) == 1 && size == MAC;
}

static EVP_MAC_CTX *signing(const uint8_t *key) {
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *context = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
    EVP_MAC_free(hmac); /* the context holds it */
    OSSL_PARAM digest[] = {OSSL_PARAM_construct_utf8_string("digest", "SHA256", 0), OSSL_PARAM_construct_end()};
    uint8_t first[MAC], second[MAC];
    /* The first releases of OpenSSL 3.0 do not begin again without the key: there, Python does the work. */
    if (context && EVP_MAC_init(context, key, HALF, digest) == 1 && mac_of(context, key + HALF, 1, first) &&
        mac_of(context, key + HALF, 1, second) && memcmp(first, second, MAC) == 0)
        return context;
    EVP_MAC_CTX_free(context);
    return NULL;
}

static int fernet_set_key(const char *name, const uint8_t *key, Secret *secret) {
    (void)name;
    secret->decrypt = cbc(key, 0);
    secret->mac = signing(key);
    return secret->decrypt && secret->mac;
}

static int fernet_set_target(Codec *codec, const uint8_t *key) {
    codec->encrypt = cbc(key, 1);
    codec->sign = signing(key);
    return fernet_set_key("", key, &codec->verify) && codec->encrypt && codec->sign;
}

/* Several blocks from an IV on. */
static int chained(EVP_CIPHER_CTX *context, int encrypts, const uint8_t *iv, const uint8_t *from, size_t bytes, uint8_t *to) {
    int some;
    return EVP_CipherInit_ex(context, NULL, NULL, NULL, iv, encrypts) == 1 &&
           EVP_CipherUpdate(context, to, &some, from, (int)bytes) == 1 && some == (int)bytes;
}

/* ---- one token ---- */

/* The bytes of a canonical token, or -1; `token` has room for three quarters of the text. */
static long parse_token(const uint8_t *text, size_t chars, uint8_t *token) {
    if (chars < SHORTEST_TOKEN_CHARS || chars & 3 || text[0] != 'g') return -1;
    long bytes = from_base64(&URL_SAFE, text, chars, token);
    return bytes > FRAME && token[0] == 0x80 && (bytes - FRAME) % BLOCK == 0 ? bytes : -1;
}

static int is_signed(const Secret *secret, const uint8_t *token, size_t bytes) {
    uint8_t mac[MAC];
    return mac_of(secret->mac, token, bytes - MAC, mac) && CRYPTO_memcmp(mac, token + bytes - MAC, MAC) == 0;
}

/* The bytes of the padding, 0 if it is not right. */
static size_t padding(const uint8_t *padded, size_t bytes) {
    size_t size = padded[bytes - 1];
    if (size < 1 || size > BLOCK) return 0;
    for (size_t at = 2; at <= size; at++)
        if (padded[bytes - at] != size) return 0;
    return size;
}

static size_t fernet_scratch_bytes(const Cell *cell) {
    return 3 * cell->bytes;
}

/* Take a stored token apart: its bytes into `token`, its text and padding into `padded`. Returns the bytes of the token,
 * or -1 where the reference reports a defect: no token, under no key, wrongly padded, or encrypted twice. `free` is
 * written to. */
static long fernet_opened(Codec *codec, const Cell *cell, uint8_t *token, uint8_t *padded, uint8_t *free, int *under) {
    long bytes = parse_token(cell->text, cell->bytes, token);
    if (bytes < 0) return -1;
    int at = codec->recent; /* most tokens of a batch are under the same key */
    for (int tried = 0; !is_signed(&codec->versions[at].secret, token, (size_t)bytes); at = (at + 1) % codec->count)
        if (++tried == codec->count) return -1;
    *under = codec->recent = at;
    size_t size = (size_t)bytes - FRAME, stuffed;
    if (!chained(codec->versions[at].secret.decrypt, 0, token + 1 + STAMP, token + FERNET_HEAD, size, padded) ||
        !(stuffed = padding(padded, size)) || parse_token(padded, size - stuffed, free) >= 0)
        return -1;
    return bytes;
}

/* Known only when the token is opened. */
static int fernet_stays(const Codec *codec, const Cell *cell) {
    (void)codec, (void)cell;
    return 0;
}

/* A token keeps its length. */
static size_t fernet_room(const Codec *codec, const Cell *cell) {
    (void)codec;
    return 4 + cell->bytes;
}

static int fernet_check(Codec *codec, const Cell *cell, int *under) {
    uint8_t *token = scratch(codec, fernet_scratch_bytes(cell));
    if (!token) return NO_MEMORY;
    uint8_t *padded = token + cell->bytes, *free = padded + cell->bytes;
    return fernet_opened(codec, cell, token, padded, free, under) < 0 ? REFUSED : GOOD;
}

/* Whether the packed element, as it will be sent, is a token of the target with this text and padding, and this time. */
static int fernet_verified(
    Codec *codec, const uint8_t *element, size_t bytes, const uint8_t *stamp, const uint8_t *padded, size_t size,
    uint8_t *token, uint8_t *again
) {
    return number_at(element) == bytes - 4 && parse_token(element + 4, bytes - 4, token) == (long)(size + FRAME) &&
           is_signed(&codec->verify, token, size + FRAME) && memcmp(token + 1, stamp, STAMP) == 0 &&
           chained(codec->verify.decrypt, 0, token + 1 + STAMP, token + FERNET_HEAD, size, again) &&
           memcmp(again, padded, size) == 0;
}

static int fernet_rewrite(Codec *codec, const Cell *cell, const uint8_t *iv, uint8_t *element, size_t *bytes) {
    uint8_t *token = scratch(codec, fernet_scratch_bytes(cell));
    if (!token) return NO_MEMORY;
    uint8_t *padded = token + cell->bytes, *other = padded + cell->bytes, stamp[STAMP];
    int under;
    long whole = fernet_opened(codec, cell, token, padded, other, &under);
    if (whole < 0) return REFUSED;
    if (under == codec->target) {
        *bytes = 0;
        return GOOD;
    }
    size_t size = (size_t)whole - FRAME;
    memcpy(stamp, codec->stamp_bytes ? codec->stamp : token + 1, STAMP);
    memcpy(token + 1, stamp, STAMP);
    memcpy(token + 1 + STAMP, iv, IV);
    if (!chained(codec->encrypt, 1, iv, padded, size, token + FERNET_HEAD) ||
        !mac_of(codec->sign, token, (size_t)whole - MAC, token + whole - MAC))
        return UNVERIFIED;
    *bytes = fernet_room(codec, cell);
    uint8_t *end = to_base64(&URL_SAFE, token, (size_t)whole, put_number(element, (uint32_t)(*bytes - 4)));
    AFTER_PACKING(element, *bytes);
    /* `token` is free now: what was packed is read from where it was packed. */
    int good = end == element + *bytes && fernet_verified(codec, element, *bytes, stamp, padded, size, token, other);
    return good ? GOOD : UNVERIFIED;
}

static const Kind FERNET = {
    IV, fernet_set_key, fernet_set_target, fernet_stays, fernet_room, fernet_check, fernet_rewrite,
};
