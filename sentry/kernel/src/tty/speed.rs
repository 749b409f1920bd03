//! Line speeds: terminals here have none, but settings carry them.

use chitin_abi::termios::{BOTHER, CBAUD, CBAUDEX, CIBAUD, IBSHIFT, Termios};

const SPEEDS: [u32; 16] =
    [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
const MORE_SPEEDS: [u32; 15] = [
    57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000,
    2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

fn number(code: u32) -> Option<u32> {
    if code & CBAUDEX == 0 {
        return SPEEDS.get(code as usize).copied();
    }
    MORE_SPEEDS.get(((code & !CBAUDEX) as usize).checked_sub(1)?).copied()
}

/// Input and output speed of settings; where they say BOTHER, `given`.
pub(super) fn of(termios: &Termios, given: (u32, u32)) -> (u32, u32) {
    let output = match termios.c_cflag & CBAUD {
        BOTHER => given.1,
        code => number(code).unwrap_or(given.1),
    };
    let input = match (termios.c_cflag & CIBAUD) >> IBSHIFT {
        0 => output,
        BOTHER => given.0,
        code => number(code).unwrap_or(output),
    };
    (input, output)
}
