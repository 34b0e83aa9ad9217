/* Base64 with padding, canonical and nothing else (RFC 4648, section 3.5), in the alphabets of sections 4 and 5. */

typedef struct {
    uint32_t digit[4][256]; /* a character's six bits at each of the four places of a group */
    uint8_t pair[4096][2];  /* two characters for twelve bits */
    const char *characters;
    /* For sixteen at a time, by the low half of a character: a bit for each high half with which it is none; and by the
     * high half what makes six bits of it, which for the last of the alphabet is to be corrected. */
    uint8_t unknown[16];
    int8_t shift[16], correction;
} Alphabet;

static const uint32_t BAD = 0x80000000u;
static Alphabet STANDARD = {.characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"};
static Alphabet URL_SAFE = {.characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"};

static void make_tables(Alphabet *alphabet) {
    for (int place = 0; place < 4; place++) {
        for (int byte = 0; byte < 256; byte++) alphabet->digit[place][byte] = BAD;
        for (uint32_t digit = 0; digit < 64; digit++)
            alphabet->digit[place][(uint8_t)alphabet->characters[digit]] = digit << (18 - 6 * place);
    }
    for (int byte = 0; byte < 256; byte++) {
        int high = byte >> 4, low = byte & 15, is_known = alphabet->digit[3][byte] != BAD;
        int shift = (int)alphabet->digit[3][byte] - byte;
        alphabet->unknown[low] |= 0x80;
        if (high >= 2 && high <= 7 && !is_known) alphabet->unknown[low] |= (uint8_t)(1 << (high - 2));
        if (is_known && byte != alphabet->characters[63]) alphabet->shift[high] = (int8_t)shift;
    }
    int last = alphabet->characters[63];
    alphabet->correction = (int8_t)(63 - last - alphabet->shift[last >> 4]);
    for (int bits = 0; bits < 4096; bits++) {
        alphabet->pair[bits][0] = (uint8_t)alphabet->characters[bits >> 6];
        alphabet->pair[bits][1] = (uint8_t)alphabet->characters[bits & 63];
    }
}

/* ---- sixteen characters at a time ----
 *
 * What is taken are whole groups without padding; what is left, and everything on other processors, is for the code below.
 * After Muła and Lemire, "Faster Base64 Encoding and Decoding Using AVX2 Instructions" (2018).
 */
#if defined(__x86_64__) && !defined(NARROW_BASE64)
#include <tmmintrin.h>

static int has_ssse3;
#define SSSE3 __attribute__((target("ssse3")))

/* How many characters were decoded; `out` gets three quarters of it. It ends before a character that is none. */
SSSE3 static size_t decode_wide(const Alphabet *alphabet, const uint8_t *text, size_t chars, uint8_t *out) {
    const __m128i unknown = _mm_loadu_si128((const __m128i *)alphabet->unknown), nibble = _mm_set1_epi8(0xf);
    const __m128i shift = _mm_loadu_si128((const __m128i *)alphabet->shift), last = _mm_set1_epi8(alphabet->characters[63]);
    const __m128i rows = _mm_setr_epi8(-128, -128, 1, 2, 4, 8, 16, 32, -128, -128, -128, -128, -128, -128, -128, -128);
    const __m128i order = _mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    size_t done = 0;
    for (; done + 16 <= chars; done += 16, out += 12) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(text + done));
        __m128i row = _mm_and_si128(_mm_srli_epi32(bytes, 4), nibble), place = _mm_and_si128(bytes, nibble);
        __m128i bad = _mm_and_si128(_mm_shuffle_epi8(unknown, place), _mm_shuffle_epi8(rows, row));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(bad, _mm_setzero_si128())) != 0xffff) break;
        __m128i corrected = _mm_and_si128(_mm_cmpeq_epi8(bytes, last), _mm_set1_epi8(alphabet->correction));
        __m128i six = _mm_add_epi8(bytes, _mm_add_epi8(_mm_shuffle_epi8(shift, row), corrected));
        /* Six bits a byte to twelve in two, to 24 in four, to three bytes. */
        __m128i pairs = _mm_maddubs_epi16(six, _mm_set1_epi32(0x01400140));
        __m128i packed = _mm_shuffle_epi8(_mm_madd_epi16(pairs, _mm_set1_epi32(0x00011000)), order);
        int rest = _mm_cvtsi128_si32(_mm_srli_si128(packed, 8));
        _mm_storel_epi64((__m128i *)out, packed);
        memcpy(out + 8, &rest, 4);
    }
    return done;
}

/* How many bytes were encoded; `out` gets four thirds of it. */
SSSE3 static size_t encode_wide(const Alphabet *alphabet, const uint8_t *raw, size_t bytes, uint8_t *out) {
    const char plus = alphabet->characters[62], slash = alphabet->characters[63];
    /* What is added to six bits, by their range: 26 to 51, each of 52 to 61, 62, 63, 0 to 25. */
    const __m128i shift = _mm_setr_epi8(
        'a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
        (char)(plus - 62), (char)(slash - 63), 'A', 0, 0
    );
    size_t done = 0;
    for (; done + 12 <= bytes; done += 12, out += 16) {
        int last;
        memcpy(&last, raw + done + 8, 4);
        __m128i three = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(raw + done)), _mm_cvtsi32_si128(last));
        __m128i spread = _mm_shuffle_epi8(three, _mm_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10));
        __m128i first = _mm_mulhi_epu16(_mm_and_si128(spread, _mm_set1_epi32(0x0fc0fc00)), _mm_set1_epi32(0x04000040));
        __m128i second = _mm_mullo_epi16(_mm_and_si128(spread, _mm_set1_epi32(0x003f03f0)), _mm_set1_epi32(0x01000010));
        __m128i six = _mm_or_si128(first, second);
        __m128i range = _mm_subs_epu8(six, _mm_set1_epi8(51));
        range = _mm_or_si128(range, _mm_and_si128(_mm_cmpgt_epi8(_mm_set1_epi8(26), six), _mm_set1_epi8(13)));
        _mm_storeu_si128((__m128i *)out, _mm_add_epi8(_mm_shuffle_epi8(shift, range), six));
    }
    return done;
}

static void choose_base64(void) {
    has_ssse3 = __builtin_cpu_supports("ssse3") != 0;
}
#else
enum { has_ssse3 = 0 };
static size_t decode_wide(const Alphabet *alphabet, const uint8_t *text, size_t chars, uint8_t *out) {
    return (void)alphabet, (void)text, (void)chars, (void)out, 0;
}
static size_t encode_wide(const Alphabet *alphabet, const uint8_t *raw, size_t bytes, uint8_t *out) {
    return (void)alphabet, (void)raw, (void)bytes, (void)out, 0;
}
static void choose_base64(void) {}
#endif

/* The number of bytes, or -1. `chars` is at least 4 and a multiple of it; `out` has room for three quarters. */
static long from_base64(const Alphabet *alphabet, const uint8_t *text, size_t chars, uint8_t *out) {
    const uint32_t(*digit)[256] = alphabet->digit;
    uint8_t *start = out;
    int padding = text[chars - 1] != '=' ? 0 : text[chars - 2] != '=' ? 1 : 2;
    const uint8_t *last = text + chars - (padding ? 4 : 0);
    size_t wide = has_ssse3 ? decode_wide(alphabet, text, (size_t)(last - text), out) : 0;
    uint32_t bad = 0, bits;
    for (text += wide, out += wide / 4 * 3; text < last; text += 4, out += 3) {
        bits = digit[0][text[0]] | digit[1][text[1]] | digit[2][text[2]] | digit[3][text[3]];
        bad |= bits;
        out[0] = (uint8_t)(bits >> 16), out[1] = (uint8_t)(bits >> 8), out[2] = (uint8_t)bits;
    }
    if (padding) {
        bits = digit[0][text[0]] | digit[1][text[1]];
        if (padding == 1) bits |= digit[2][text[2]];
        bad |= bits;
        if (bits & (padding == 1 ? 0xff : 0xffff)) return -1; /* stray bits */
        *out++ = (uint8_t)(bits >> 16);
        if (padding == 1) *out++ = (uint8_t)(bits >> 8);
    }
    return bad & BAD ? -1 : out - start;
}

static uint8_t *to_base64(const Alphabet *alphabet, const uint8_t *raw, size_t bytes, uint8_t *out) {
    size_t wide = has_ssse3 ? encode_wide(alphabet, raw, bytes, out) : 0;
    raw += wide, bytes -= wide, out += wide / 3 * 4;
    for (; bytes >= 3; bytes -= 3, raw += 3, out += 4) {
        uint32_t bits = (uint32_t)raw[0] << 16 | (uint32_t)raw[1] << 8 | raw[2];
        memcpy(out, alphabet->pair[bits >> 12], 2);
        memcpy(out + 2, alphabet->pair[bits & 4095], 2);
    }
    if (bytes) {
        uint32_t bits = (uint32_t)raw[0] << 16 | (bytes == 2 ? (uint32_t)raw[1] << 8 : 0);
        memcpy(out, alphabet->pair[bits >> 12], 2);
        out[2] = bytes == 2 ? (uint8_t)alphabet->characters[bits >> 6 & 63] : '=';
        out[3] = '=';
        out += 4;
    }
    return out;
}
