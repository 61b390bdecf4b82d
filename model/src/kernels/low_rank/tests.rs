use super::*;
use crate::kernels::project::project;
use crate::kernels::{Arena, FactorFormat, PairShape, Team};
use crate::quant::{Format, QuantMatrix};
use crate::test_noise::noise;

struct Module {
    a: Vec<f32>,
    b: Vec<f32>,
    pair: LowRankPair,
    out: usize,
    rank: usize,
    cols: usize,
}

fn module(seed: u64, (out, rank, cols): (usize, usize, usize), format: FactorFormat) -> Module {
    let (a, b) = (noise(seed, rank * cols), noise(seed ^ 99, out * rank));
    let shape = PairShape { out, rank, cols };
    let arena = &mut Arena::with_capacity(0);
    let pair = LowRankPair::new(shape, 0.5, [&a, &b], format, arena);
    Module {
        a,
        b,
        pair,
        out,
        rank,
        cols,
    }
}

fn exact(m: &Module, x: &[f32], column: usize) -> f64 {
    (0..m.rank)
        .map(|r| {
            let dot = |k: usize| f64::from(m.a[r * m.cols + k]) * f64::from(x[k]);
            let inner: f64 = (0..m.cols).map(dot).sum();
            0.5 * f64::from(m.b[column * m.rank + r]) * inner
        })
        .sum()
}

#[test]
fn chunks_are_all_rows_and_no_chunk_is_of_two_groups() {
    let mut team = Team::new(4, "test").unwrap();
    team.lead(|| {
        let chunks = |n, groups: &[(usize, usize)]| {
            row_chunks(n, groups.iter().map(|(start, end)| *start..*end))
        };
        assert!(chunks(0, &[]).is_empty());
        assert_eq!(chunks(1, &[(0, 1)]), vec![0..1; 1]);
        // two of eight rows for each thread, or one where the next is another's
        assert_eq!(chunks(8, &[(0, 8)]), [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(
            chunks(8, &[(0, 1), (1, 1), (3, 6)]),
            [0..1, 1..3, 3..5, 5..6, 6..8]
        );
        let many = chunks(1000, &[(10, 990)]);
        assert!(
            many.iter()
                .all(|chunk| (1..=ROWS_AT_ONCE).contains(&chunk.len()))
        );
        assert!(many.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!((many[0].start, many[many.len() - 1].end), (0, 1000));
        for border in [10, 990] {
            assert!(many.iter().any(|chunk| chunk.start == border));
        }
    });
}

#[test]
fn terms_equal_their_definition_and_do_not_depend_on_each_other() {
    // fewer threads than chunks there are, and more
    let all = [1, 2, 40, 100].map(|threads| {
        let mut team = Team::new(threads, "test").unwrap();
        team.lead(|| {
            let floats = [
                check(FactorFormat::F32, None, 1e-3),
                check(FactorFormat::F16, None, 2e-2),
                check(FactorFormat::F32, Some(Passes::One), 1e-3),
            ];
            // half a step of 1/127 in each of the A and B: 0.03 in the mean square
            let codes = [None, Some(Passes::One), Some(Passes::Two)]
                .map(|passes| check(FactorFormat::Int8, passes, 2e-1));
            [floats, codes]
        })
    });
    assert!(all.iter().all(|found| *found == all[0]));
}

/// Two outputs of 40 and 530 columns; three adapters on some rows of each. Returns
/// the outputs.
fn check(format: FactorFormat, passes: Option<Passes>, tolerance: f64) -> [Vec<f32>; 2] {
    let (n, cols, outs) = (120, 96, [40, 530]);
    let weights = outs.map(|out| {
        let weights = noise(out as u64, out * cols);
        QuantMatrix::quantize_from_f32(Format::Q8_0, out, cols, &weights).unwrap()
    });
    let matrices = weights.each_ref();
    let groups = [
        (0..1, 16, 0),
        (1..1, 16, 0),
        (3..103, 33, 1),
        (110..117, 5, 2),
    ];
    let mut modules: Vec<(usize, Range<usize>, Module)> = groups
        .iter()
        .flat_map(|(rows, rank, seed)| {
            let of = |o: usize| {
                (
                    o,
                    rows.clone(),
                    module(seed + o as u64, (outs[o], *rank, cols), format),
                )
            };
            [of(0), of(1)]
        })
        .collect();
    modules.sort_by_key(|(output, ..)| *output);
    let terms: Vec<LowRankTerm<'_>> = modules
        .iter()
        .map(|(output, rows, module)| LowRankTerm {
            output: *output,
            rows: rows.clone(),
            pair: &module.pair,
        })
        .collect();
    let x = noise(7, n * cols);
    let mut of_base = outs.map(|out| vec![f32::NAN; n * out]);
    let mut slices = of_base.each_mut().map(Vec::as_mut_slice);
    project(&matrices, (&x, n), &mut slices, passes, Terms::default());
    let mut ys = outs.map(|out| vec![f32::NAN; n * out]);
    let mut slices = ys.each_mut().map(Vec::as_mut_slice);
    fn of_this<'a>(of_this: &'a [LowRankTerm<'a>], chunks: &'a [Range<usize>]) -> Terms<'a> {
        Terms {
            of_this,
            of_next: of_this,
            next: &[],
            chunks,
        }
    }
    let chunks = row_chunks(n, groups.iter().map(|(rows, ..)| rows.clone()));
    let of_all = of_this(&terms, &chunks);
    project(&matrices, (&x, n), &mut slices, passes, of_all);
    let in_term = |row: usize| groups.iter().any(|(rows, _, _)| rows.contains(&row));
    for row in (0..n).filter(|&row| !in_term(row)) {
        for ((y, of_base), out) in ys.iter().zip(&of_base).zip(outs) {
            let of_row = row * out..(row + 1) * out;
            assert_eq!(y[of_row.clone()], of_base[of_row]);
        }
    }
    for (output, rows, module) in &modules {
        for row in rows.clone() {
            let x = &x[row * cols..(row + 1) * cols];
            let of_row = row * module.out..(row + 1) * module.out;
            let (found, of_base) = (&ys[*output][of_row.clone()], &of_base[*output][of_row]);
            for column in [0, module.out / 2, module.out - 1] {
                let exact = exact(module, x, column);
                let added = f64::from(found[column]) - f64::from(of_base[column]);
                assert!((added - exact).abs() < tolerance, "{format:?}");
            }
            let mut alone = vec![f32::NAN; module.out];
            let term = [LowRankTerm {
                output: 0,
                rows: 0..1,
                pair: &module.pair,
            }];
            project(
                &[matrices[*output]],
                (x, 1),
                &mut [&mut alone],
                passes,
                of_this(&term, std::slice::from_ref(&(0..1))),
            );
            assert_eq!(found, alone);
        }
    }
    ys
}

#[test]
#[should_panic = "assertion failed"]
fn chunks_that_overlap_are_refused() {
    let module = module(1, (40, 4, 64), FactorFormat::F32);
    let matrix = QuantMatrix::quantize_from_f32(Format::Q8_0, 40, 64, &[0.0; 40 * 64]);
    let terms = [LowRankTerm {
        output: 0,
        rows: 0..4,
        pair: &module.pair,
    }];
    let terms = Terms {
        of_this: &terms,
        chunks: &[0..2, 0..2],
        ..Terms::default()
    };
    let y = &mut [0.0; 4 * 40];
    project(
        &[&matrix.unwrap()],
        (&[1.0; 4 * 64], 4),
        &mut [y],
        None,
        terms,
    );
}
