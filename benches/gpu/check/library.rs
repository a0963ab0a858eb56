//! `check` as a library: `peers.py` loads it beside PyTorch, so that ours and theirs run in one process, and gives it the
//! function that answers for the peers. One symbol; what it runs is `leasehold_bench::check`.

use leasehold_bench::check::{CheckError, from_words};
use std::ffi::{CStr, CString, c_char, c_int};

/// Answers `request`, which comes with `count` operands, by at most `room` bytes of JSON at `reply`; how many, or less than 0
/// where it cannot.
type AnswerFn = unsafe extern "C" fn(
    request: *const c_char,
    operands: *const *const u8,
    lens: *const u64,
    count: u64,
    reply: *mut u8,
    room: u64,
) -> i64;

/// Bytes of an answer: some hundred thousand values.
const ROOM: usize = 1 << 24;

/// Runs `check` with the words of a command line. 0 where the report is written and finds nothing wrong, 1 where it does,
/// 2 where there is no report. Where the device is lost the process ends here, with status 3.
// SAFETY: no other symbol of the process has this name.
#[unsafe(no_mangle)]
extern "C" fn leasehold_check(
    count: c_int,
    words: *const *const c_char,
    answer: AnswerFn,
) -> c_int {
    // SAFETY: the caller hands over `count` strings that end with a zero and outlive the call.
    let word = |i: usize| unsafe { CStr::from_ptr(*words.add(i)) }.to_string_lossy().into_owned();
    let words: Vec<String> = (0..count.max(0) as usize).map(word).collect();
    let answer = |request: &str, operands: &[&[u8]]| asked(answer, request, operands);
    match from_words(&words, Some(Box::new(answer))) {
        Ok(faults) => {
            faults.iter().for_each(|fault| eprintln!("check: {fault}"));
            c_int::from(!faults.is_empty())
        }
        Err(error) => {
            let text = match error {
                CheckError::Args(error) => error.to_string(),
                error => format!("check: {error}"),
            };
            eprintln!("{}", text.trim_end());
            2
        }
    }
}

fn asked(answer: AnswerFn, request: &str, operands: &[&[u8]]) -> Result<String, String> {
    let request = CString::new(request).map_err(|error| error.to_string())?;
    let places: Vec<*const u8> = operands.iter().map(|bytes| bytes.as_ptr()).collect();
    let lens: Vec<u64> = operands.iter().map(|bytes| bytes.len() as u64).collect();
    let mut reply = vec![0u8; ROOM];
    // SAFETY: all of it outlives the call, the lengths are those of the operands, and the room is that of the reply.
    let len = unsafe {
        answer(
            request.as_ptr(),
            places.as_ptr(),
            lens.as_ptr(),
            lens.len() as u64,
            reply.as_mut_ptr(),
            ROOM as u64,
        )
    };
    let len = usize::try_from(len).map_err(|_| "peers.py gave no answer".to_string())?;
    reply.truncate(len);
    String::from_utf8(reply).map_err(|error| error.to_string())
}
