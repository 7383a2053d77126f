/* A forward pass of the smallest kind, as somebody writes one: prefill, then token by token. WRONG plants a bug. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
/* the writer stands before this text */

enum { LAYERS = 4, HIDDEN = 256, FFN = 768, HEADS = 4, KV = 2, DIM = 64, VOCABULARY = 2048, MOST = 64 };
enum { QUERY = HEADS * DIM, KEYS = KV * DIM, FUSED = QUERY + 2 * KEYS };

static float *weights;
static const char *out;
static float cache[LAYERS][2][MOST][KEYS];

static float *next(int count) {
    float *found = weights;
    weights += count;
    return found;
}

static void norm(float *y, const float *x, const float *weight) {
    double sum = 0;
    for (int i = 0; i < HIDDEN; i++) sum += (double)x[i] * x[i];
    float scale = (float)(1 / sqrt(sum / HIDDEN + 1e-6));
    for (int i = 0; i < HIDDEN; i++) y[i] = x[i] * scale * weight[i];
}

static void product(float *y, const float *x, const float *weight, int rows, int columns) {
    for (int r = 0; r < rows; r++) {
        double sum = 0;
        for (int c = 0; c < columns; c++) sum += (double)weight[(size_t)r * columns + c] * x[c];
        y[r] = (float)sum;
    }
}

static void turn(float *x, int heads, int position) {
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < DIM / 2; i++) {
#ifdef WRONG
            double angle = position / pow(10000, (double)i / DIM);
#else
            double angle = position / pow(10000, 2.0 * i / DIM);
#endif
            float a = x[h * DIM + i], b = x[h * DIM + i + DIM / 2];
            x[h * DIM + i] = (float)(a * cos(angle) - b * sin(angle));
            x[h * DIM + i + DIM / 2] = (float)(b * cos(angle) + a * sin(angle));
        }
}

static void attend(float *y, const float *q, int layer, int position) {
    for (int h = 0; h < HEADS; h++) {
        double scores[MOST], sum = 0, most = -1e30;
        int column = h / (HEADS / KV) * DIM;
        for (int t = 0; t <= position; t++) {
            scores[t] = 0;
            for (int i = 0; i < DIM; i++) scores[t] += (double)q[h * DIM + i] * cache[layer][0][t][column + i];
            scores[t] /= sqrt(DIM);
            if (scores[t] > most) most = scores[t];
        }
        for (int t = 0; t <= position; t++) sum += scores[t] = exp(scores[t] - most);
        for (int i = 0; i < DIM; i++) {
            double total = 0;
            for (int t = 0; t <= position; t++) total += scores[t] / sum * cache[layer][1][t][column + i];
            y[h * DIM + i] = (float)total;
        }
    }
}

static void forward(int token, int position, float *all) {
    float h[HIDDEN], x[HIDDEN], y[HIDDEN], qkv[FUSED], gate[FFN], up[FFN];
    weights = all;
    float *table = next(VOCABULARY * HIDDEN);
    memcpy(h, table + (size_t)token * HIDDEN, sizeof h);
    aprt_add(out, 0, "embedding", h, HIDDEN);
    for (int l = 0; l < LAYERS; l++) {
        norm(x, h, next(HIDDEN));
        aprt_add(out, l, "attn_norm", x, HIDDEN);
        product(qkv, x, next(FUSED * HIDDEN), FUSED, HIDDEN);
        float *bias = next(FUSED);
        for (int i = 0; i < FUSED; i++) qkv[i] += bias[i];
        aprt_add(out, l, "qkv_bias", qkv, FUSED);
        turn(qkv, HEADS, position);
        turn(qkv + QUERY, KV, position);
        aprt_add(out, l, "q_post_rope", qkv, QUERY);
        aprt_add(out, l, "k_post_rope", qkv + QUERY, KEYS);
        memcpy(cache[l][0][position], qkv + QUERY, KEYS * sizeof(float));
        memcpy(cache[l][1][position], qkv + QUERY + KEYS, KEYS * sizeof(float));
        attend(x, qkv, l, position);
        aprt_add(out, l, "attention", x, QUERY);
        product(y, x, next(HIDDEN * QUERY), HIDDEN, QUERY);
        for (int i = 0; i < HIDDEN; i++) h[i] += y[i];
        aprt_add(out, l, "post_attn_residual", h, HIDDEN);
        norm(x, h, next(HIDDEN));
        product(gate, x, next(FFN * HIDDEN), FFN, HIDDEN);
        product(up, x, next(FFN * HIDDEN), FFN, HIDDEN);
        for (int i = 0; i < FFN; i++) gate[i] *= up[i] / (1 + expf(-gate[i]));
        aprt_add(out, l, "ffn_swigl", gate, FFN);
        product(y, gate, next(HIDDEN * FFN), HIDDEN, FFN);
        for (int i = 0; i < HIDDEN; i++) h[i] += y[i];
        aprt_add(out, l, "post_ffn_residual", h, HIDDEN);
    }
    norm(x, h, next(HIDDEN));
    aprt_add(out, -1, "final_norm", x, HIDDEN);
    static float logits[VOCABULARY];
    product(logits, x, table, VOCABULARY, HIDDEN);
    aprt_add(out, -1, "lm_head", logits, VOCABULARY);
}

int main(int count, char **words) {
    FILE *file = fopen(words[1], "rb");
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    float *all = malloc(size);
    rewind(file);
    if (fread(all, 1, size, file) != size) return 1;
    int ids[MOST];
    out = words[2];
    for (int i = 3; i < count; i++) forward(ids[i - 3] = atoi(words[i]), i - 3, all);
    return aprt_tokens(out, ids, count - 3);
}
