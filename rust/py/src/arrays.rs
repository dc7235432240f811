//! The arrays of a call: checked with the GIL held, then seen as plain slices, row by row, without it.
//!
//! Nothing is copied. The caller must not write to an array while a call reads it (as with any NumPy function that
//! releases the GIL).

use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use numpy::ndarray::{ArrayView2, Axis, Dimension};
use numpy::npyffi::NPY_TYPES;
use numpy::{
    Element, PyArray, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray, PyReadonlyArray1,
    PyReadonlyArray2, PyReadwriteArray2, PyUntypedArray, PyUntypedArrayMethods,
};
use optdecode_core::plan::{Anchor, Plan, Weights};
use optdecode_core::row::{Mask, Row, Scores};
use pyo3::intern;
use pyo3::prelude::*;

use crate::errors::{type_, value};

/// The arguments that `solve` and `sample` share; keeps the arrays borrowed.
pub(crate) struct Arguments<'py> {
    logits: Logits<'py>,
    mask: Option<MaskArray<'py>>,
    anchor: Option<PyReadonlyArray2<'py, f64>>,
    weights: Option<PyReadonlyArray2<'py, f64>>,
    budget: Option<PyReadonlyArray1<'py, u32>>,
    pub(crate) rows: usize,
    pub(crate) vocabulary: usize,
}

enum Logits<'py> {
    F64(Matrix<'py, f64>),
    F32(Matrix<'py, f32>),
    F16(Matrix<'py, u16>),
    Bf16(Matrix<'py, u16>),
}

/// Rows, or one row that came by itself.
enum Matrix<'py, T: Element> {
    Rows(PyReadonlyArray2<'py, T>),
    Row(PyReadonlyArray1<'py, T>),
}

pub(crate) enum MaskArray<'py> {
    Flags(PyReadonlyArray2<'py, bool>),
    Bits(PyReadonlyArray2<'py, u32>),
}

impl<'py> Arguments<'py> {
    pub(crate) fn new(
        logits: &Bound<'py, PyAny>,
        dtype: &str,
        mask: Option<&Bound<'py, PyAny>>,
        anchor: Option<&Bound<'py, PyAny>>,
        weights: Option<&Bound<'py, PyAny>>,
        budget: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let shape = untyped("logits", logits, 2)?.shape();
        let (rows, vocabulary) = (shape[0], shape[1]);
        if vocabulary == 0 || vocabulary > u32::MAX as usize {
            return Err(value(format!(
                "logits must be (B, V) with 1 <= V < 2**32; got ({rows}, {vocabulary})"
            )));
        }
        let logits = match dtype {
            "f64" => Logits::F64(Matrix::Rows(matrix("logits", logits)?)),
            "f32" => Logits::F32(Matrix::Rows(matrix("logits", logits)?)),
            "f16" => Logits::F16(Matrix::Rows(matrix("logits", logits)?)),
            "bf16" => Logits::Bf16(Matrix::Rows(matrix("logits", logits)?)),
            _ => {
                return Err(value(format!(
                    "dtype must be one of f64, f32, f16, bf16; got {dtype:?}"
                )));
            }
        };
        let per_token = |name, array: Option<&Bound<'py, PyAny>>| -> PyResult<_> {
            let Some(array) = array else { return Ok(None) };
            let array: PyReadonlyArray2<'py, f64> = matrix(name, array)?;
            check_shape(name, &array, rows, Some(vocabulary))?;
            Ok(Some(array))
        };
        Ok(Arguments {
            logits,
            mask: mask.map(|mask| MaskArray::new(mask, rows, vocabulary)).transpose()?,
            anchor: per_token("anchor", anchor)?,
            weights: per_token("weights", weights)?,
            budget: budget.map(|budget| budgets(budget, rows)).transpose()?,
            rows,
            vocabulary,
        })
    }

    /// Logits that can be read as the caller gave them, with nothing beside them: a row or rows of float16, float32 or
    /// float64, native and contiguous.
    pub(crate) fn plain(logits: &Bound<'py, PyAny>) -> Option<Self> {
        let array = logits.cast::<PyUntypedArray>().ok()?;
        let (rows, vocabulary) = match *array.shape() {
            [vocabulary] => (1, vocabulary),
            [rows, vocabulary] => (rows, vocabulary),
            _ => return None,
        };
        if rows == 0 || vocabulary == 0 || vocabulary > u32::MAX as usize {
            return None;
        }
        let number = array.dtype().num();
        let logits = if number == NPY_TYPES::NPY_FLOAT as i32 {
            Logits::F32(Matrix::plain(logits)?)
        } else if number == NPY_TYPES::NPY_DOUBLE as i32 {
            Logits::F64(Matrix::plain(logits)?)
        } else if number == NPY_TYPES::NPY_HALF as i32 && array.dtype().is_native_byteorder()? {
            let bits = numpy::dtype::<u16>(logits.py());
            let bits = logits.call_method1(intern!(logits.py(), "view"), (bits,)).ok()?;
            Logits::F16(Matrix::plain(&bits)?)
        } else {
            return None;
        };
        Some(Arguments {
            logits,
            mask: None,
            anchor: None,
            weights: None,
            budget: None,
            rows,
            vocabulary,
        })
    }

    /// Checks what a plan needs of the arrays; `row` is the row of a batch with a plan a row.
    pub(crate) fn check_plan(&self, plan: &Plan, row: Option<usize>) -> PyResult<()> {
        if plan.anchor == Anchor::Given && self.anchor.is_none() {
            let place = place(row);
            return Err(value(format!(
                "the plan's anchor is 'given', but anchor is None{place}"
            )));
        }
        check_tokens(plan, self.vocabulary, self.weights.is_some(), row)
    }

    /// Whether the logits are float64, hence the probabilities that come back.
    pub(crate) fn is_double(&self) -> bool {
        matches!(self.logits, Logits::F64(_))
    }

    /// Whether the logits are one row that came by itself, (V,).
    pub(crate) fn is_single(&self) -> bool {
        match &self.logits {
            Logits::F64(matrix) => matrix.is_single(),
            Logits::F32(matrix) => matrix.is_single(),
            Logits::F16(matrix) | Logits::Bf16(matrix) => matrix.is_single(),
        }
    }

    /// The rows, free of Python.
    pub(crate) fn batch(&self) -> PyResult<Batch<'_>> {
        Ok(Batch {
            scores: match &self.logits {
                Logits::F64(matrix) => ScoreRows::F64(matrix.view()),
                Logits::F32(matrix) => ScoreRows::F32(matrix.view()),
                Logits::F16(matrix) => ScoreRows::F16(matrix.view()),
                Logits::Bf16(matrix) => ScoreRows::Bf16(matrix.view()),
            },
            mask: self.mask.as_ref().map(MaskArray::rows),
            anchor: self.anchor.as_ref().map(|array| array.as_array()),
            weights: self.weights.as_ref().map(|array| array.as_array()),
            budget: self.budget.as_ref().map(|array| array.as_slice()).transpose()?,
        })
    }
}

/// One array row a row of logits.
pub(crate) fn rows_of<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
    rows: usize,
) -> PyResult<PyReadonlyArray2<'py, T>> {
    let array = matrix(name, array)?;
    match array.shape()[0] == rows {
        true => Ok(array),
        false => Err(value(format!("{name} must have {rows} rows; got {}", array.shape()[0]))),
    }
}

fn place(row: Option<usize>) -> String {
    row.map_or(String::new(), |row| format!(" (row {row})"))
}

/// Checks that what a plan says of single tokens fits V of them; `given` if the call brings weights in place of the plan's.
pub(crate) fn check_tokens(plan: &Plan, vocabulary: usize, given: bool, row: Option<usize>) -> PyResult<()> {
    if let Some(&last) = plan.allowed.as_ref().and_then(|ids| ids.last())
        && last as usize >= vocabulary
    {
        let place = place(row);
        return Err(value(format!(
            "the plan allows token {last}, but V = {vocabulary}{place}"
        )));
    }
    if let Some(coverage) = plan.objective.coverage()
        && let Weights::Array(values) = &coverage.weights
        && !given
        && values.len() != vocabulary
    {
        let (length, place) = (values.len(), place(row));
        return Err(value(format!(
            "the plan's weights have length {length}, but V = {vocabulary}{place}"
        )));
    }
    Ok(())
}

impl<'py, T: Element> Matrix<'py, T> {
    fn plain(array: &Bound<'py, PyAny>) -> Option<Self> {
        Some(match array.cast::<PyArray1<T>>() {
            Ok(_) => Matrix::Row(plain(array)?),
            Err(_) => Matrix::Rows(plain(array)?),
        })
    }

    fn is_single(&self) -> bool {
        matches!(self, Matrix::Row(_))
    }

    fn view(&self) -> ArrayView2<'_, T> {
        match self {
            Matrix::Rows(rows) => rows.as_array(),
            Matrix::Row(row) => row.as_array().insert_axis(Axis(0)),
        }
    }
}

impl<'py> MaskArray<'py> {
    pub(crate) fn new(mask: &Bound<'py, PyAny>, rows: usize, vocabulary: usize) -> PyResult<Self> {
        let array = untyped("mask", mask, 2)?;
        let dtype = array.dtype();
        if dtype.is_equiv_to(&numpy::dtype::<bool>(mask.py())) {
            let flags = matrix("mask", mask)?;
            check_shape("a bool mask", &flags, rows, Some(vocabulary))?;
            Ok(MaskArray::Flags(flags))
        } else if dtype.is_equiv_to(&numpy::dtype::<u32>(mask.py())) {
            let bits = matrix("mask", mask)?;
            check_shape("a packed mask", &bits, rows, None)?;
            Ok(MaskArray::Bits(bits))
        } else {
            Err(type_(format!(
                "mask must be bool (B or 1, V) or uint32 (B or 1, W); got {dtype}"
            )))
        }
    }

    pub(crate) fn rows(&self) -> MaskRows<'_> {
        match self {
            MaskArray::Flags(array) => MaskRows::Flags(array.as_array()),
            MaskArray::Bits(array) => MaskRows::Bits(array.as_array()),
        }
    }
}

/// The rows of a call.
pub(crate) struct Batch<'a> {
    scores: ScoreRows<'a>,
    mask: Option<MaskRows<'a>>,
    anchor: Option<ArrayView2<'a, f64>>,
    weights: Option<ArrayView2<'a, f64>>,
    budget: Option<&'a [u32]>,
}

enum ScoreRows<'a> {
    F64(ArrayView2<'a, f64>),
    F32(ArrayView2<'a, f32>),
    F16(ArrayView2<'a, u16>),
    Bf16(ArrayView2<'a, u16>),
}

pub(crate) enum MaskRows<'a> {
    Flags(ArrayView2<'a, bool>),
    Bits(ArrayView2<'a, u32>),
}

impl MaskRows<'_> {
    pub(crate) fn row(&self, row: usize) -> Mask<'_> {
        match self {
            MaskRows::Flags(rows) => Mask::Flags(slice(rows, row)),
            MaskRows::Bits(rows) => Mask::Bits(slice(rows, row)),
        }
    }
}

impl Batch<'_> {
    /// What row `row` brings; `plan` because only a plan with a given anchor sees the anchor.
    pub(crate) fn row(&self, row: usize, plan: &Plan) -> Row<'_> {
        Row {
            scores: match &self.scores {
                ScoreRows::F64(rows) => Scores::F64(slice(rows, row)),
                ScoreRows::F32(rows) => Scores::F32(slice(rows, row)),
                ScoreRows::F16(rows) => Scores::F16(slice(rows, row).reinterpret_cast::<f16>()),
                ScoreRows::Bf16(rows) => Scores::Bf16(slice(rows, row).reinterpret_cast::<bf16>()),
            },
            mask: self.mask.as_ref().map(|mask| mask.row(row)),
            anchor: self
                .anchor
                .as_ref()
                .filter(|_| plan.anchor == Anchor::Given)
                .map(|rows| slice(rows, row)),
            weights: self.weights.as_ref().map(|rows| slice(rows, row)),
            budget: self.budget.map(|budget| budget[row]),
        }
    }
}

/// One row of what `matrix` let through; a single row serves the whole batch.
fn slice<'a, T>(rows: &ArrayView2<'a, T>, row: usize) -> &'a [T] {
    let row = if rows.nrows() == 1 { 0 } else { row };
    (*rows).index_axis_move(Axis(0), row).to_slice().unwrap_or_default()
}

fn untyped<'a, 'py>(
    name: &str,
    array: &'a Bound<'py, PyAny>,
    dimensions: usize,
) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    let Ok(array) = array.cast::<PyUntypedArray>() else {
        return Err(type_(format!("{name} must be a NumPy array; got {}", array.get_type())));
    };
    match array.ndim() == dimensions {
        true => Ok(array),
        false => Err(value(format!(
            "{name} must have {dimensions} dimensions; got {}",
            array.ndim()
        ))),
    }
}

/// An array of the right number of dimensions and type.
fn typed<'a, 'py, T: Element, D: Dimension>(
    name: &str,
    array: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, PyArray<T, D>>> {
    let found = untyped(name, array, D::NDIM.unwrap_or_default())?;
    array.cast().map_err(|_| {
        let wanted = numpy::dtype::<T>(array.py());
        type_(format!("{name} must be a native {wanted} array; got {}", found.dtype()))
    })
}

/// A 2-D array whose rows are slices: aligned, contiguous along the last axis.
fn matrix<'py, T: Element>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArray2<'py, T>> {
    let array: &Bound<'py, PyArray2<T>> = typed(name, array)?;
    if array.len() == 0 {
        // Whatever its strides and pointer are: an empty array of our own has good ones.
        return Ok(PyArray2::zeros(array.py(), [array.shape()[0], array.shape()[1]], false).readonly());
    }
    check_rows(name, array)?;
    readonly(name, array)
}

/// The same, to be written to.
pub(crate) fn matrix_mut<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadwriteArray2<'py, T>> {
    let array: &Bound<'py, PyArray2<T>> = typed(name, array)?;
    if array.len() > 0 {
        check_rows(name, array)?;
        if array.shape()[0] > 1 && array.strides()[0] < (array.shape()[1] * size_of::<T>()) as isize {
            return Err(value(format!("{name}: rows that are written to must not overlap")));
        }
    }
    array.try_readwrite().map_err(|error| value(format!("{name}: {error}")))
}

fn check_rows<T: Element>(name: &str, array: &Bound<'_, PyArray2<T>>) -> PyResult<()> {
    let (shape, strides, item) = (array.shape(), array.strides(), size_of::<T>() as isize);
    // The stride of an axis with one element means nothing.
    let rows_fine = shape[0] == 1 || (strides[0] >= 0 && strides[0] % item == 0);
    let columns_fine = shape[1] == 1 || strides[1] == item;
    if !(rows_fine && columns_fine && array.is_aligned()) {
        return Err(type_(format!(
            "{name} must be aligned, contiguous along the last axis and forward along the first; got strides \
             {strides:?}: pass numpy.ascontiguousarray({name})"
        )));
    }
    Ok(())
}

/// A 1-D contiguous array, of one element a row if `rows` is given.
pub(crate) fn vector<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
    rows: Option<usize>,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    let array: &Bound<'py, PyArray1<T>> = typed(name, array)?;
    if let Some(rows) = rows.filter(|&rows| rows != array.len()) {
        return Err(value(format!(
            "{name} must have one element a row, {rows}; got {}",
            array.len()
        )));
    }
    let array = readonly(name, array)?;
    match array.as_slice() {
        Ok(_) => Ok(array),
        Err(_) => Err(type_(format!("{name} must be contiguous and aligned"))),
    }
}

/// An array that can be read in place as it is.
pub(crate) fn plain<'py, T: Element, D: Dimension>(array: &Bound<'py, PyAny>) -> Option<PyReadonlyArray<'py, T, D>> {
    let array: &Bound<'py, PyArray<T, D>> = array.cast().ok()?;
    let fine = array.is_c_contiguous() && array.is_aligned();
    fine.then(|| array.try_readonly().ok()).flatten()
}

fn readonly<'py, T: Element, D: Dimension>(
    name: &str,
    array: &Bound<'py, PyArray<T, D>>,
) -> PyResult<PyReadonlyArray<'py, T, D>> {
    array.try_readonly().map_err(|error| value(format!("{name}: {error}")))
}

fn budgets<'py>(budget: &Bound<'py, PyAny>, rows: usize) -> PyResult<PyReadonlyArray1<'py, u32>> {
    let array: PyReadonlyArray1<'py, u32> = vector("budget", budget, Some(rows))?;
    match array.as_array().iter().position(|&budget| budget == 0) {
        Some(row) => Err(value(format!("budget must be >= 1; row {row} has 0"))),
        None => Ok(array),
    }
}

fn check_shape<T: Element>(
    name: &str,
    array: &PyReadonlyArray2<'_, T>,
    rows: usize,
    columns: Option<usize>,
) -> PyResult<()> {
    let &[found_rows, found_columns] = array.shape() else {
        return Err(value(format!("{name} must be 2-D")));
    };
    if (found_rows == rows || found_rows == 1) && columns.is_none_or(|columns| found_columns == columns) {
        return Ok(());
    }
    let columns = columns.map_or("W".to_owned(), |columns| columns.to_string());
    Err(value(format!(
        "{name} must be ({rows} or 1, {columns}); got ({found_rows}, {found_columns})"
    )))
}
