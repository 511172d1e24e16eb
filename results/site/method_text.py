"""What the method page says, by section, in the form of docstrings (equations are lines indented by four); `{...}` are numbers of the study."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One section: its anchor, its title, its text, and where its formulas come from."""

    anchor: str
    title: str
    text: str
    source: str = ""


SECTIONS = (
    Section(
        "measured",
        "What is measured",
        """
Every scheme is trained in the same backbone, on the same data. A seed fixes the initial weights of the branches and the order of the data, so that
the runs of one seed differ in their residual connections alone. The validation loss is the mean negative log-likelihood over a fixed validation set:

    L = -(1/T) sum_t ln p(x_t | x_{<t})                     nats per token
    bits per byte = L / ln 2 * (tokens / bytes)

Compute counts the connections: FLOPs per token are those of a forward and a backward pass, 2 per multiply-add, residual connections included.
Throughput is training tokens over wall-clock time; overhead is the extra time for a token, resnet's throughput over the scheme's, less one.
Memory is the peak that was allocated on a GPU, or resident on a CPU. Both are compared only between runs on the same hardware;
speeds and times of runs whose sweep trained several on a GPU at once are left out.
""",
    ),
    Section(
        "intervals",
        "Means and intervals",
        """
A mean over seeds comes with its two-sided {confidence} % t interval. One seed has none, and none is shown.

    mean = (1/n) sum_i y_i
    s^2 = sum_i (y_i - mean)^2 / (n - 1)
    interval = mean +- t_{0.975, n-1} s / √n
""",
        "Student 1908, Biometrika 6(1).",
    ),
    Section(
        "paired",
        "Paired differences",
        """
A scheme is compared with resnet seed by seed, so that what a seed does to both of them cancels. Only seeds that both completed make a pair.

    d_i = L_i(scheme) - L_i(resnet)                         i over common seeds
    t = mean(d) / (s_d / √n)                           n - 1 degrees of freedom

Over three comparison groups or more, the mean of a scheme's differences is that of its groups' means, which count alike, with an interval over
groups: seeds of one size and budget share what makes the difference larger there, and are no independent sample of sizes.
""",
        "Student 1908; for training runs, Bouthillier et al. 2021 (arXiv 2103.03098).",
    ),
    Section(
        "multiple",
        "Multiple comparisons",
        """
Comparing many schemes with one reference finds differences by luck. Within a comparison group all p-values are corrected together, which keeps the
chance of a single false finding at 5 %:

    p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))         p_(1) <= ... <= p_(m)

The same is done, separately, for the equivalence tests and for the tests between rows that make ranks: a row shares the rank above it unless it is
separably worse than the best row of that rank.
""",
        "Holm 1979, Scandinavian Journal of Statistics 6(2).",
    ),
    Section(
        "equivalence",
        "Equivalence: when is there no difference?",
        """
That a difference was not found does not make it nothing. A row is called equal to resnet only if two one-sided t tests both reject that the true
difference lies beyond the margin, here {margin} nats per token:

    p = P(T > (margin - |mean(d)|) / (s_d / √n))            T with n - 1 degrees of freedom; the larger of the two

Equal within is the smallest margin at which the same pairs would pass. A row that is neither better, worse nor equal is undecided: that is a
statement about the experiment, not about the scheme.
""",
        "Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15(6).",
    ),
    Section(
        "detectable",
        "Minimum detectable effect",
        """
Beside every comparison stands the smallest true difference that so many pairs with this spread would have revealed with probability {power} %:

    power(delta) = P(|T| > t_{0.975, n-1})                  T noncentral t, noncentrality delta √n / s_d

If it is larger than any effect you care about, an undecided row tells you nothing.
""",
        "Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, chapter 2.",
    ),
    Section(
        "multipliers",
        "Multipliers over resnet",
        """
How many times a scheme's compute, time or memory resnet must spend to reach the same loss. Power laws are fitted through each scheme's frontier (the
rows that no cheaper one of it beats) in ln L and ln C:

    L = A C^{-a}
    multiplier(L) = C_resnet(L) / C_scheme(L)

It holds only between losses that both frontiers reached, which are given with it; with fewer than three points on a frontier it is not given at all.
Intervals come from resampling seeds. Time is that of the steps, all tokens over the run's steady throughput: starting, compiling and validating take
a short run as long as a long one.
""",
        "Kaplan et al. 2020 (arXiv 2001.08361) for the form; the AttnRes paper (arXiv 2603.15031) for the multiplier at equal loss.",
    ),
    Section(
        "laws",
        "Scaling laws",
        """
Where a study has several sizes and budgets, loss is fitted over both with a Huber loss (threshold 0.001) on logarithms, from many starts, with
intervals from resampling runs. The largest size is left out, predicted, and its error stated.

    L(N, D) = E + A / N^{alpha} + B / D^{beta}              N parameters, D tokens
""",
        "Hoffmann et al. 2022 (arXiv 2203.15556); optimisation and intervals as in Besiroglu et al. 2024 (arXiv 2404.10102).",
    ),
    Section(
        "gain",
        "Gain and stability",
        """
With H_l the mixing matrix of sublayer l as it is applied, indexed [out, in], averaged over the tokens of a fixed validation sequence:

    forward gain = max_i |sum_j P_{ij}|                     P = H_L ... H_2 H_1
    backward gain = max_j |sum_i P_{ij}|

One is neutral, and what doubly stochastic mixing keeps. A large gain is not a diverged run: both are reported, apart. A run diverges when its loss
stops being a number or passes a bound; such runs are counted, and enter no mean and no pair.

Sinkhorn's normalisation is cut off after a budget of iterations. What it leaves undone is the largest deviation from one of a row or column sum:

    error = max_i |sum_j H_{ij} - 1|
""",
        "Xie et al. 2025 (arXiv 2512.24880), section 5.4; Sinkhorn and Knopp 1967, Pacific Journal of Mathematics 21(2).",
    ),
    Section(
        "tuning",
        "Tuning",
        """
Where a sweep searches hyper-parameters, every row gets the same number of trials, on a seed that is not ranked; the column Tuning counts them, pruned
ones included. Runs of a search are never ranked. How much the loss depends on the learning rate is measured where the rate was a factor of the sweep:

    sensitivity = mean_{eta} min(L(eta), L_0) - min_{eta} L(eta)     L_0 the loss at initialisation
""",
        "Wortsman et al. 2023 (arXiv 2309.14322).",
    ),
    Section(
        "exclusions",
        "What is left out, and how it shows",
        """
Nothing is dropped silently. A planned run counts once: by its newest attempt that ended with a result. Runs that diverged or ran out of memory are
results and are counted in their row; runs that failed or did not finish are counted as missing. Means are over complete runs, so a scheme whose worst
seeds diverge looks better than it is: read the diverged column first.
""",
    ),
    Section(
        "limits",
        "What these numbers cannot tell",
        """
They belong to the sizes, budgets, data and optimiser they were measured with; small models at short budgets rank schemes differently from large ones.
Seeds cover initialisation and data order, not the choice of data or of hyper-parameters beyond the tuning budget. Speed and memory depend on kernels:
a scheme without a fused one looks slower than it could be. A row that is not verified is its submitter's word.
""",
    ),
)
