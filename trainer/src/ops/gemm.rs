//! Dense f32 matrix products on slices: a checked face on the `gemm` crate.

use gemm::Parallelism;

/// A row-major matrix, possibly meant transposed.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    transposed: bool,
}

/// The matrix stored in `values`.
pub(crate) fn plain(values: &[f32]) -> Matrix<'_> {
    Matrix {
        values,
        transposed: false,
    }
}

/// The transpose of the matrix stored in `values`.
pub(crate) fn transposed(values: &[f32]) -> Matrix<'_> {
    Matrix {
        values,
        transposed: true,
    }
}

/// Rows of the product, its columns, and the length that is summed over.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// Which threads compute a product.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// The calling one, for products inside a parallel loop.
    Caller,
    /// Rayon's current pool.
    Pool,
}

/// `out[m, n] = keep·out + scale·(a[m, k] · b[k, n])`.
pub(crate) fn multiply(
    Extent { m, n, k }: Extent,
    a: Matrix<'_>,
    b: Matrix<'_>,
    (keep, scale): (f32, f32),
    out: &mut [f32],
    threads: Threads,
) {
    assert_eq!(a.values.len(), m * k, "left operand");
    assert_eq!(b.values.len(), k * n, "right operand");
    assert_eq!(out.len(), m * n, "product");
    if m == 0 || n == 0 {
        return;
    }
    let strides = |transposed: bool, rows: usize, cols: usize| -> (isize, isize) {
        // (column stride, row stride); slices are shorter than isize::MAX.
        if transposed {
            (rows as isize, 1)
        } else {
            (1, cols as isize)
        }
    };
    let (a_cs, a_rs) = strides(a.transposed, m, k);
    let (b_cs, b_rs) = strides(b.transposed, k, n);
    let parallelism = match threads {
        Threads::Caller => Parallelism::None,
        Threads::Pool => Parallelism::Rayon(0),
    };
    // SAFETY: the lengths were checked against the extents and strides above,
    // and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            keep != 0.0,
            a.values.as_ptr(),
            a_cs,
            a_rs,
            b.values.as_ptr(),
            b_cs,
            b_rs,
            keep,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_keep_scale_and_transpose() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // [3, 2]
        let extent = Extent { m: 2, n: 2, k: 3 };
        let mut out = [100.0f32; 4];
        multiply(
            extent,
            plain(&a),
            plain(&b),
            (0.0, 1.0),
            &mut out,
            Threads::Caller,
        );
        assert_eq!(out, [5.0, 11.0, 14.0, 23.0]);
        multiply(
            extent,
            plain(&a),
            plain(&b),
            (1.0, 2.0),
            &mut out,
            Threads::Pool,
        );
        assert_eq!(out, [15.0, 33.0, 42.0, 69.0]);
        let a_stored_transposed = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]; // [3, 2]
        let b_stored_transposed = [1.0, 2.0, 0.0, 0.0, 1.0, 3.0]; // [2, 3]
        let (a, b) = (
            transposed(&a_stored_transposed),
            transposed(&b_stored_transposed),
        );
        multiply(extent, a, b, (0.0, 1.0), &mut out, Threads::Caller);
        assert_eq!(out, [5.0, 11.0, 14.0, 23.0]);
    }
}
