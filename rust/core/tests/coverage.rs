//! Coverage plans against nested bisection, waterfilling against bisection, mirror ascent against both.

mod common;

use common::*;
use optdecode_core::Status;
use optdecode_core::plan::*;

const BUDGETS: [u32; 9] = [1, 2, 3, 4, 16, 64, 1024, 4096, 10_000];
const LAMBDAS: [f64; 7] = [1e-3, 0.03, 0.1, 1.0, 7.0, 100.0, 1e3];
const RATIOS: [f64; 6] = [0.0, 1e-3, 0.02, 1.0, 30.0, 1e3];

#[test]
fn coverage_matches_nested_bisection() {
    let mut rng = Rng(3);
    for (n, scale) in [(2, 1.0), (9, 3.0), (20, 0.2)] {
        let x = rng.normals(n, scale);
        let log_p = log_softmax(&x);
        for lam in LAMBDAS {
            for ratio in RATIOS {
                for budget in BUDGETS {
                    let mut w: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
                    w[0] = 0.0;
                    let plan = coverage(lam, ratio * lam, budget, Weights::Array(w.clone()));
                    let solution = solve(&plan, &row(&x));
                    let oracle = best_of_k(&x, &log_p, lam, ratio * lam, &w, f64::from(budget));
                    let apart = total_variation(&solution.q, &oracle);
                    assert!(apart <= 1e-9, "n {n} {:?}: {apart:e}", plan.objective);
                }
            }
        }
    }
}

#[test]
fn waterfilling_matches_bisection() {
    let mut rng = Rng(5);
    for n in [2, 10, 200] {
        for scale in [0.01, 1.0, 5.0] {
            let x = rng.normals(n, scale);
            let w: Vec<f64> = (0..n).map(|_| 0.1 + rng.uniform()).collect();
            for beta_bar in [0.01, 1.0, 50.0] {
                for budget in [2, 3, 8, 20] {
                    let plan = coverage(0.0, beta_bar, budget, Weights::Array(w.clone()));
                    let apart = total_variation(
                        &solve(&plan, &row(&x)).q,
                        &waterfill(&x, beta_bar, &w, f64::from(budget)),
                    );
                    assert!(apart <= 1e-9, "{:?} {n} {scale}: {apart:e}", plan.objective);
                }
            }
        }
    }
}

#[test]
fn waterfilling_by_hand() {
    // Without a gain of its own the best token takes what is left at nu = its score.
    let x = [1.0, 0.5, 1.0];
    let plan = coverage(0.0, 1.0, 2, Weights::Array(vec![0.0, 0.5, 0.0]));
    let solution = solve(&plan, &row(&x));
    assert_eq!(solution.q, [0.5, 0.5, 0.0]);
    assert_eq!(solution.outcome.threshold, 1.0);
    // Equal tokens share, whatever the budget.
    for budget in [2, 100, 1_000_000] {
        let plan = coverage(0.0, 1e-3, budget, Weights::Uniform);
        let solution = solve(&plan, &row(&[4.0; 7]));
        assert!(
            solution.q.iter().all(|q| (q - 1.0 / 7.0).abs() < 1e-15),
            "{budget}: {:?}",
            solution.q
        );
    }
    let greedy = coverage(0.0, 1.0, 1, Weights::Array(vec![0.0, 0.6, 0.0]));
    assert_eq!(solve(&greedy, &row(&x)).q, [0.0, 1.0, 0.0]);
    let unweighted = coverage(0.0, 0.0, 9, Weights::Uniform);
    assert_eq!(solve(&unweighted, &row(&x)).q, [1.0, 0.0, 0.0]);
}

#[test]
fn mirror_ascent_is_algorithm_one_and_reaches_the_optimum() {
    let mut rng = Rng(21);
    let x = rng.normals(30, 2.0);
    let log_p = log_softmax(&x);
    let w = vec![1.0; 30];
    for budget in [1, 2, 16, 64] {
        let term = || Coverage {
            beta_bar: 0.3,
            budget,
            weights: Weights::Uniform,
        };
        let lam = 0.5;
        let ascend = |steps, eta| {
            plan(Objective::Mirror {
                lam,
                coverage: term(),
                steps,
                eta,
                tolerance: None,
            })
        };
        // Algorithm 1 as printed, on probabilities.
        let k = f64::from(budget);
        let mut q: Vec<f64> = log_p.iter().map(|l| l.exp()).collect();
        for _ in 0..5 {
            for i in 0..30 {
                let g = x[i] - lam * ((q[i].ln() - log_p[i]) + 1.0) + 0.3 * k * (1.0 - q[i]).powf(k - 1.0);
                q[i] *= (0.7 * g).exp();
            }
            let sum: f64 = q.iter().sum();
            q.iter_mut().for_each(|q| *q /= sum);
        }
        let solution = solve(&ascend(5, Some(0.7)), &row(&x));
        assert!(total_variation(&solution.q, &q) <= 1e-12);
        assert_eq!(solution.outcome.iterations, 5);
        // The guaranteed step rises and converges to the exact solver's answer.
        let exact = solve(&coverage(lam, 0.3, budget, Weights::Uniform), &row(&x));
        let mut last = f64::NEG_INFINITY;
        for steps in [0, 1, 2, 5, 20, 100, 2000] {
            let objective = solve(&ascend(steps, None), &row(&x)).outcome.objective;
            assert!(objective >= last - 1e-12 && objective <= exact.outcome.objective + 1e-12);
            last = objective;
        }
        let converged = solve(&ascend(2000, None), &row(&x));
        assert!(total_variation(&converged.q, &exact.q) <= 1e-8);
        assert!((converged.outcome.threshold - exact.outcome.threshold).abs() <= 1e-6);
        let plan = coverage(lam, 0.3, budget, Weights::Uniform);
        assert!(gap(&plan, &x, &log_p, &w, &converged) <= 1e-8);
    }
}

#[test]
fn mirror_ascent_stops_at_the_tolerance() {
    let mut rng = Rng(22);
    let x = rng.normals(30, 2.0);
    let log_p = log_softmax(&x);
    let (lam, w) = (0.5, vec![1.0; 30]);
    for budget in [1, 2, 8, 64] {
        let ascend = |steps, tolerance| {
            let coverage = Coverage {
                beta_bar: 0.3,
                budget,
                weights: Weights::Uniform,
            };
            let objective = Objective::Mirror {
                lam,
                coverage,
                steps,
                eta: None,
                tolerance,
            };
            solve(&plan(objective), &row(&x))
        };
        let exact = coverage(lam, 0.3, budget, Weights::Uniform);
        for tolerance in [1e-2, 1e-5, 1e-9] {
            let found = ascend(10_000, Some(tolerance));
            let taken = found.outcome.iterations;
            assert_eq!(found.outcome.status, Status::Ok);
            assert!(gap(&exact, &x, &log_p, &w, &found) <= tolerance * lam + 1e-14);
            // What DESIGN.md proves of the gap.
            assert!(total_variation(&found.q, &solve(&exact, &row(&x)).q) <= tolerance);
            // As many steps as that takes, and the same ones as without a tolerance.
            assert_eq!(found.log_q, ascend(taken, None).log_q);
            let one_less = ascend(taken.saturating_sub(1), Some(tolerance));
            assert_eq!(
                one_less.outcome.status == Status::ReducedAccuracy,
                taken > 0,
                "{budget} {tolerance}"
            );
        }
    }
}

#[test]
fn absurd_mirror_steps_stay_finite() {
    for (name, x) in adversarial() {
        for (lam, eta) in [(0.0, 1e6), (1e3, 1e3), (1.0, 5.0)] {
            let coverage = Coverage {
                beta_bar: 1.0,
                budget: 16,
                weights: Weights::Uniform,
            };
            let plan = plan(Objective::Mirror {
                lam,
                coverage,
                steps: 200,
                eta: Some(eta),
                tolerance: None,
            });
            let q = solve(&plan, &row(&x)).q;
            assert!((q.iter().sum::<f64>() - 1.0).abs() <= 1e-12, "{name} {lam} {eta}");
        }
    }
}

#[test]
fn score_weight_temperature_and_raw_scores() {
    let mut rng = Rng(31);
    let x = rng.normals(50, 3.0);
    let log_p = log_softmax(&x.iter().map(|x| x / 0.7).collect::<Vec<_>>());
    for raw_scores in [false, true] {
        for score_weight in [1.0, 0.0, -2.0] {
            let scale = if raw_scores { score_weight } else { score_weight / 0.7 };
            let l: Vec<f64> = x.iter().map(|x| scale * x).collect();
            let base = coverage(0.4, 0.8, 8, Weights::Model);
            let plan = Plan {
                temperature: 0.7,
                score_weight,
                raw_scores,
                ..base
            };
            let w: Vec<f64> = log_p.iter().map(|l| l.exp()).collect();
            let solution = solve(&plan, &row(&x));
            assert!(total_variation(&solution.q, &best_of_k(&l, &log_p, 0.4, 0.8, &w, 8.0)) <= 1e-12);
            let objective: f64 = (0..50)
                .map(|i| {
                    let q = solution.q[i];
                    q * l[i] - 0.4 * q * (q.ln() - log_p[i]) + 0.8 * w[i] * (1.0 - (1.0 - q).powi(8))
                })
                .sum();
            assert!((objective - solution.outcome.objective).abs() <= 1e-12 * (1.0 + objective.abs()));
        }
    }
}
