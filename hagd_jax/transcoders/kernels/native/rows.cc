// Products of a token's few active features with rows of a weight matrix, on CPU.
//
// XLA's CPU backend turns a scatter of rows into a loop of single updates and a gather into a
// copy of every row; these functions touch each active row once, and write the results of all
// layers where they stay, while a loop in XLA copies each layer's out of it. N tokens, K active
// features a token, F features, D the width of a row. All numbers are float32, indices int32.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;

namespace {

// Calls work(begin, end) for all pieces of [0, total), on the calling thread and on the pool's.
// The caller never waits for a task that has not begun, so a busy pool cannot block it.
template <typename Work>
void parallel(ffi::ThreadPool& pool, int64_t total, int64_t piece, Work&& work) {
  struct State {
    std::atomic<int64_t> next{0}, left;
  };
  const int64_t pieces = (total + piece - 1) / piece;
  if (pieces == 0) return;
  auto state = std::make_shared<State>();
  state->left = pieces;
  auto run = [state, pieces, piece, total](auto& body) {
    for (int64_t i; (i = state->next.fetch_add(1)) < pieces;) {
      body(i * piece, std::min(total, (i + 1) * piece));
      state->left.fetch_sub(1);
    }
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), pieces) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([run, &work] { run(work); });
  run(work);
  while (state->left.load() > 0) std::this_thread::yield();
}

// An index from outside would read or write foreign memory: it counts as no feature.
inline bool within(int32_t index, int64_t features) { return index >= 0 && index < features; }

// y += Σ_j w[j] · rows[j], four rows at a time to spare loads and stores of y.
inline void accumulate(float* __restrict y, const float* const* rows, const float* w, int64_t n,
                       int64_t width) {
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    const float *a = rows[j], *b = rows[j + 1], *c = rows[j + 2], *d = rows[j + 3];
    const float wa = w[j], wb = w[j + 1], wc = w[j + 2], wd = w[j + 3];
    for (int64_t i = 0; i < width; ++i) y[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
  }
  for (; j < n; ++j) {
    const float* a = rows[j];
    const float wa = w[j];
    for (int64_t i = 0; i < width; ++i) y[i] += wa * a[i];
  }
}

// The k largest positive entries of a row, in order of index; ties go to the lower index.
class Selector {
 public:
  explicit Selector(int64_t k) : k_(k) { found_.reserve(4 * k + 64); }

  void select(const float* row, int64_t width, float* values, int32_t* indices) {
    // The last row's threshold is a good guess for this one; a wrong guess only costs time.
    if (!collect(row, width, guess_)) collect(row, width, 0.0f);
    if (static_cast<int64_t>(found_.size()) > k_) keep_largest();
    guess_ = static_cast<int64_t>(found_.size()) == k_ && k_ > 0 ? 0.8f * smallest() : 0.0f;
    std::sort(found_.begin(), found_.end(),
              [](const Entry& a, const Entry& b) { return a.second < b.second; });
    for (int64_t j = 0; j < k_; ++j) {
      const bool real = j < static_cast<int64_t>(found_.size());
      values[j] = real ? found_[j].first : 0.0f;
      indices[j] = real ? found_[j].second : 0;
    }
  }

 private:
  using Entry = std::pair<float, int32_t>;

  bool collect(const float* row, int64_t width, float threshold) {
    constexpr int64_t kBlock = 32;
    const float start = threshold;
    found_.clear();
    for (int64_t i = 0; i < width; i += kBlock) {
      const int64_t end = std::min(width, i + kBlock);
      int any = 0;
      if (end - i == kBlock) {
        for (int64_t j = 0; j < kBlock; ++j) any |= row[i + j] > threshold;
      } else {
        any = 1;
      }
      if (!any) continue;
      for (int64_t j = i; j < end; ++j)
        if (row[j] > threshold) found_.emplace_back(row[j], static_cast<int32_t>(j));
      if (static_cast<int64_t>(found_.size()) >= 4 * k_ + 16) {
        keep_largest();
        threshold = std::max(threshold, smallest());
      }
    }
    return start == 0.0f || static_cast<int64_t>(found_.size()) >= k_;
  }

  void keep_largest() {
    std::nth_element(found_.begin(), found_.begin() + k_, found_.end(),
                     [](const Entry& a, const Entry& b) {
                       return a.first > b.first || (a.first == b.first && a.second < b.second);
                     });
    found_.resize(k_);
  }

  float smallest() const {
    float low = found_[0].first;
    for (const Entry& entry : found_) low = std::min(low, entry.first);
    return low;
  }

  int64_t k_;
  float guess_ = 0.0f;
  std::vector<Entry> found_;
};

ffi::Error TopK(ffi::ThreadPool pool, F32 pre, ffi::Result<F32> values, ffi::Result<S32> indices) {
  const int64_t n = pre.dimensions()[0], width = pre.dimensions()[1];
  const int64_t k = values->dimensions()[1];
  const float* in = pre.typed_data();
  float* v = values->typed_data();
  int32_t* at = indices->typed_data();
  parallel(pool, n, 64, [=](int64_t begin, int64_t end) {
    Selector selector(k);
    for (int64_t i = begin; i < end; ++i)
      selector.select(in + i * width, width, v + i * k, at + i * k);
  });
  return ffi::Error::Success();
}

// The edges of the layer graph: edge e reads the active features of layer senders[e], through
// weight[e], and belongs to the output of layer receivers[e]. L layers, E edges.
struct Edges {
  Edges(const S32& senders, const S32& receivers)
      : count(senders.dimensions()[0]),
        sender(senders.typed_data()),
        receiver(receivers.typed_data()) {}

  const int64_t count;
  const int32_t *sender, *receiver;
};

// out[l, n] = Σ over edges e into l of Σ_k values[s, n, k] · weight[e, indices[s, n, k]]
ffi::Error Combine(ffi::ThreadPool pool, F32 values, S32 indices, F32 weight, S32 senders,
                   S32 receivers, ffi::Result<F32> out) {
  const int64_t layers = values.dimensions()[0], n = values.dimensions()[1];
  const int64_t k = values.dimensions()[2];
  const int64_t features = weight.dimensions()[1], width = weight.dimensions()[2];
  const float *v = values.typed_data(), *w = weight.typed_data();
  const int32_t* at = indices.typed_data();
  const Edges edges(senders, receivers);
  float* y = out->typed_data();
  parallel(pool, layers * n, 32, [=](int64_t begin, int64_t end) {
    std::vector<const float*> rows(k);
    std::vector<float> weights(k);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / n, token = i % n;
      float* sum = y + i * width;
      std::fill_n(sum, width, 0.0f);
      for (int64_t e = 0; e < edges.count; ++e) {
        if (edges.receiver[e] != layer) continue;
        const int64_t from = (edges.sender[e] * n + token) * k;
        int64_t count = 0;
        for (int64_t j = from; j < from + k; ++j) {
          if (v[j] == 0.0f || !within(at[j], features)) continue;
          rows[count] = w + (e * features + at[j]) * width;
          weights[count++] = v[j];
        }
        accumulate(sum, rows.data(), weights.data(), count, width);
      }
    }
  });
  return ffi::Error::Success();
}

// out[l, n, k] = Σ over edges e from l of x[r, n] · weight[e, indices[l, n, k]]
ffi::Error Dot(ffi::ThreadPool pool, F32 x, S32 indices, F32 weight, S32 senders, S32 receivers,
               ffi::Result<F32> out) {
  const int64_t layers = indices.dimensions()[0], n = indices.dimensions()[1];
  const int64_t k = indices.dimensions()[2];
  const int64_t features = weight.dimensions()[1], width = weight.dimensions()[2];
  const float *rows = x.typed_data(), *w = weight.typed_data();
  const int32_t* at = indices.typed_data();
  const Edges edges(senders, receivers);
  float* y = out->typed_data();
  parallel(pool, layers * n, 32, [=](int64_t begin, int64_t end) {
    std::fill(y + begin * k, y + end * k, 0.0f);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / n, token = i % n;
      for (int64_t e = 0; e < edges.count; ++e) {
        if (edges.sender[e] != layer) continue;
        const float* a = rows + (edges.receiver[e] * n + token) * width;
        for (int64_t j = i * k; j < (i + 1) * k; ++j) {
          if (!within(at[j], features)) continue;
          const float* b = w + (e * features + at[j]) * width;
          float sum = 0.0f;
          for (int64_t d = 0; d < width; ++d) sum += a[d] * b[d];
          y[j] += sum;
        }
      }
    }
  });
  return ffi::Error::Success();
}

// The active pairs of one layer's tokens and features, in order of feature, then of token. Sums
// over them are always made in the same order. Zeros stand for no feature at all.
struct Sorted {
  Sorted(const float* v, const int32_t* at, int64_t n, int64_t k, int64_t features)
      : first(features + 1, 0) {
    for (int64_t i = 0; i < n * k; ++i)
      if (v[i] != 0.0f && within(at[i], features)) ++first[at[i] + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    tokens.resize(first[features]);
    weights.resize(first[features]);
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < n * k; ++i) {
      if (v[i] == 0.0f || !within(at[i], features)) continue;
      const int64_t place = next[at[i]]++;
      tokens[place] = i / k;
      weights[place] = v[i];
    }
  }

  std::vector<int64_t> first, tokens;
  std::vector<float> weights;
};

// out[e, f] = Σ_{n, k: indices[s, n, k] = f} values[s, n, k] · x[r, n], for edge e from s to r,
// and sums[l, f] the same sum of values alone.
ffi::Error Spread(ffi::ThreadPool pool, F32 values, S32 indices, F32 x, S32 senders, S32 receivers,
                  ffi::Result<F32> out, ffi::Result<F32> sums) {
  const int64_t layers = values.dimensions()[0], n = values.dimensions()[1];
  const int64_t k = values.dimensions()[2];
  const int64_t features = out->dimensions()[1], width = out->dimensions()[2];
  const float *v = values.typed_data(), *rows = x.typed_data();
  const int32_t* at = indices.typed_data();
  const Edges edges(senders, receivers);
  float *y = out->typed_data(), *total = sums->typed_data();
  std::vector<std::unique_ptr<const Sorted>> sorted(layers);
  auto* lists = sorted.data();
  parallel(pool, layers, 1, [=](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      lists[l] = std::make_unique<const Sorted>(v + l * n * k, at + l * n * k, n, k, features);
      const auto& [first, _, weights] = *lists[l];
      for (int64_t f = 0; f < features; ++f)
        total[l * features + f] = std::accumulate(weights.data() + first[f],
                                                  weights.data() + first[f + 1], 0.0f);
    }
  });
  parallel(pool, edges.count * features, 64, [=](int64_t begin, int64_t end) {
    std::vector<const float*> sources;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t e = i / features, f = i % features;
      const auto& [first, tokens, weights] = *lists[edges.sender[e]];
      const float* base = rows + edges.receiver[e] * n * width;
      sources.clear();
      for (int64_t j = first[f]; j < first[f + 1]; ++j) sources.push_back(base + tokens[j] * width);
      std::fill_n(y + i * width, width, 0.0f);
      accumulate(y + i * width, sources.data(), weights.data() + first[f], sources.size(), width);
    }
  });
  return ffi::Error::Success();
}

// What the products have in common: three arrays, the edges, and a result.
auto Product() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<F32>()
      .Arg<S32>()
      .Arg<F32>()
      .Arg<S32>()
      .Arg<S32>()
      .Ret<F32>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    hagd_topk, TopK,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Ret<F32>().Ret<S32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(hagd_combine, Combine, Product());
XLA_FFI_DEFINE_HANDLER_SYMBOL(hagd_dot, Dot, Product());
XLA_FFI_DEFINE_HANDLER_SYMBOL(hagd_spread, Spread, Product().Ret<F32>());
