/* Fernet tokens: their MAC tells under which key each is. `codec.py` is the reference.
 *
 * The URL-safe base64 of 0x80 ‖ time ‖ IV ‖ AES-128-CBC ciphertext ‖ HMAC-SHA256 of all before it. A key is a signing half
 * and an encrypting half.
 */

enum { HALF = 16, STAMP = 8, IV = 16, MAC = 32, BLOCK = 16, DIGEST_BLOCK = 64, FERNET_HEAD = 1 + STAMP + IV, FRAME = FERNET_HEAD + MAC };
enum { SHORTEST_TOKEN_CHARS = (FRAME + BLOCK + 2) / 3 * 4 };

/* ---- AES-128-CBC, OpenSSL's: a context keeps its key, and its chain continues from value to value ----
 *
 * To begin again with an IV takes OpenSSL longer than to encrypt a short text.
 */

static EVP_CIPHER_CTX *cbc(const uint8_t *key, int encrypts) {
    static const uint8_t zero[IV];
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context && EVP_CipherInit_ex(context, EVP_aes_128_cbc(), NULL, key + HALF, zero, encrypts) == 1 &&
        EVP_CIPHER_CTX_set_padding(context, 0) == 1)
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

/* Decrypt an IV and `size` bytes of ciphertext as one text: the IV decrypts to a block that means nothing, and from there
 * on the chain is the value's. `text` gets both; the answer is where the plaintext begins, or NULL. */
static uint8_t *cbc_decrypted(EVP_CIPHER_CTX *context, const uint8_t *iv, size_t size, uint8_t *text) {
    return blocks(context, iv, IV + size, text) ? text + IV : NULL;
}

/* Encrypt `size` bytes with an IV: what the chain mixes into the first block is mixed into it before, and the IV instead. */
static int cbc_encrypted(Codec *codec, const uint8_t *iv, uint8_t *text, size_t size, uint8_t *ciphertext) {
    mix(codec->chain, iv);
    mix(text, codec->chain);
    int good = blocks(codec->encrypt, text, size, ciphertext);
    mix(text, codec->chain);
    memcpy(codec->chain, ciphertext + size - BLOCK, BLOCK);
    return good;
}

/* ---- HMAC (RFC 2104) with OpenSSL's SHA-256, of whichever provider is configured ----
 *
 * To begin OpenSSL's own HMAC again takes longer than to copy the state of a digest.
 */

static EVP_MD_CTX *began(const uint8_t *key, size_t bytes, uint8_t pad) {
    uint8_t block[DIGEST_BLOCK];
    memset(block, pad, sizeof block);
    for (size_t at = 0; at < bytes; at++) block[at] ^= key[at];
    EVP_MD_CTX *state = EVP_MD_CTX_new();
    int good = state && EVP_DigestInit_ex(state, EVP_sha256(), NULL) == 1 && EVP_DigestUpdate(state, block, sizeof block) == 1;
    OPENSSL_cleanse(block, sizeof block);
    if (good) return state;
    EVP_MD_CTX_free(state);
    return NULL;
}

/* Of a key no longer than a block. */
static int set_hmac(Hmac *hmac, const uint8_t *key, size_t bytes) {
    hmac->inner = began(key, bytes, 0x36);
    hmac->outer = began(key, bytes, 0x5c);
    hmac->work = EVP_MD_CTX_new();
    return hmac->inner && hmac->outer && hmac->work;
}

/* The digest of some bytes that continues from a state. */
static int digest_from(const EVP_MD_CTX *state, EVP_MD_CTX *work, const uint8_t *data, size_t bytes, uint8_t *digest) {
    unsigned int size;
    return EVP_MD_CTX_copy_ex(work, state) == 1 && EVP_DigestUpdate(work, data, bytes) == 1 &&
           EVP_DigestFinal_ex(work, digest, &size) == 1 && size == MAC;
}

static int mac_of(const Hmac *hmac, const uint8_t *data, size_t bytes, uint8_t *mac) {
    return digest_from(hmac->inner, hmac->work, data, bytes, mac) && digest_from(hmac->outer, hmac->work, mac, MAC, mac);
}

static int fernet_set_key(const char *name, const uint8_t *key, Secret *secret) {
    (void)name;
    secret->decrypt = cbc(key, 0);
    return secret->decrypt && set_hmac(&secret->hmac, key, HALF);
}

static int fernet_set_target(Codec *codec, const uint8_t *key) {
    codec->encrypt = cbc(key, 1);
    return codec->encrypt && set_hmac(&codec->sign, key, HALF) && fernet_set_key("", key, &codec->verify);
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
    return mac_of(&secret->hmac, token, bytes - MAC, mac) && is_same(mac, token + bytes - MAC);
}

/* The bytes of the padding, 0 if it is not right. */
static size_t padding(const uint8_t *padded, size_t bytes) {
    size_t size = padded[bytes - 1];
    if (size < 1 || size > BLOCK) return 0;
    for (size_t at = 2; at <= size; at++)
        if (padded[bytes - at] != size) return 0;
    return size;
}

/* One of three pieces of memory: a token, or an IV and a text; aligned, as in `codec_native.h`. */
static size_t fernet_piece(const Cell *cell) {
    return (cell->bytes + 63) & ~(size_t)63;
}

/* Take a stored token apart: its bytes into `token`, its text and padding into `text`, from `*padded` on. Returns the
 * bytes of the token, or -1 where the reference reports a defect: no token, under no key, wrongly padded, or encrypted
 * twice. `free` is written to. */
static long fernet_opened(
    Codec *codec, const Cell *cell, uint8_t *token, uint8_t *text, uint8_t *free, uint8_t **padded, int *under
) {
    long bytes = parse_token(cell->text, cell->bytes, token);
    if (bytes < 0) return -1;
    int at = codec->recent; /* most tokens of a batch are under the same key */
    for (int tried = 0; !is_signed(&codec->versions[at].secret, token, (size_t)bytes); at = (at + 1) % codec->count)
        if (++tried == codec->count) return -1;
    *under = codec->recent = at;
    size_t size = (size_t)bytes - FRAME, stuffed;
    *padded = cbc_decrypted(codec->versions[at].secret.decrypt, token + 1 + STAMP, size, text);
    if (!*padded || !(stuffed = padding(*padded, size)) || parse_token(*padded, size - stuffed, free) >= 0)
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
    return cell->bytes;
}

static int fernet_check(Codec *codec, const Cell *cell, int *under) {
    size_t piece = fernet_piece(cell);
    uint8_t *token = scratch(codec, 3 * piece), *padded;
    if (!token) return NO_MEMORY;
    return fernet_opened(codec, cell, token, token + piece, token + 2 * piece, &padded, under) < 0 ? REFUSED : GOOD;
}

/* Whether the packed value, as it will be sent, is a token of the target with this text and padding, and this time. */
static int fernet_verified(
    Codec *codec, const uint8_t *value, size_t bytes, const uint8_t *stamp, const uint8_t *padded, size_t size,
    uint8_t *token, uint8_t *again
) {
    if (parse_token(value, bytes, token) != (long)(size + FRAME) ||
        !is_signed(&codec->verify, token, size + FRAME) || memcmp(token + 1, stamp, STAMP) != 0)
        return 0;
    const uint8_t *text = cbc_decrypted(codec->verify.decrypt, token + 1 + STAMP, size, again);
    return text && memcmp(text, padded, size) == 0;
}

static int fernet_rewrite(Codec *codec, const Cell *cell, const uint8_t *iv, uint8_t *value, size_t *bytes) {
    size_t piece = fernet_piece(cell);
    uint8_t *token = scratch(codec, 3 * piece), *padded, stamp[STAMP];
    if (!token) return NO_MEMORY;
    uint8_t *text = token + piece, *other = text + piece;
    int under;
    long whole = fernet_opened(codec, cell, token, text, other, &padded, &under);
    if (whole < 0) return REFUSED;
    if (under == codec->target) {
        *bytes = 0;
        return GOOD;
    }
    size_t size = (size_t)whole - FRAME;
    memcpy(stamp, codec->stamp_bytes ? codec->stamp : token + 1, STAMP);
    memcpy(token + 1, stamp, STAMP);
    memcpy(token + 1 + STAMP, iv, IV);
    if (!cbc_encrypted(codec, iv, padded, size, token + FERNET_HEAD) ||
        !mac_of(&codec->sign, token, (size_t)whole - MAC, token + whole - MAC))
        return UNVERIFIED;
    *bytes = fernet_room(codec, cell);
    uint8_t *end = to_base64(&URL_SAFE, token, (size_t)whole, value);
    AFTER_PACKING(value - 4, *bytes + 4);
    /* `token` is free now: what was packed is read from where it was packed. */
    int good = end == value + *bytes && fernet_verified(codec, value, *bytes, stamp, padded, size, token, other);
    return good ? GOOD : UNVERIFIED;
}

static const Kind FERNET = {
    IV, fernet_set_key, fernet_set_target, fernet_stays, fernet_room, fernet_check, fernet_rewrite,
};
