//! A small fuzzer that runs as an ordinary test, on stable Rust.
//!
//! An input is a list of *steps* of sixteen bytes, whose meaning is the target's: a frame to be made, a call, a piece of time.
//! So whatever is cut out of an input, or changed in it, is an input again, and what fails is made small by leaving out steps.
//! There is no coverage to guide it; instead a target says what it saw happen ([`Seen`]), and inputs that showed something new
//! are kept and built upon.
//!
//! `CHITIN_TEST_SEED` says another seed; `CHITIN_FUZZ_SECONDS` runs for so long instead of a fixed number of inputs, and
//! `CHITIN_FUZZ_INPUT` runs the input in a file alone. A failure prints the seed and the smallest input that fails the same
//! way, in the form of the files in the target's corpus, which are run before anything else.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One thing that happens.
pub type Step = [u8; 16];

const MAX_STEPS: usize = 64;
/// Inputs that are kept to be built upon.
const MAX_POOL: usize = 4096;
/// An input that takes longer than this does not end.
const ENDLESS: Duration = Duration::from_secs(60);
/// What making a failure small may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A small seeded generator (xorshift64*) for tests: whatever is random can be repeated from its seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n.max(1)
    }
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
    /// With so many percent.
    pub fn chance(&mut self, percent: f64) -> bool {
        (self.below(1_000_000) as f64) < percent * 10_000.0
    }
}

/// The bytes of a step, taken one after the other; behind the last one there are zeroes.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.u8(), self.u8(), self.u8(), self.u8()])
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.u8()) % of.len()]
    }
}

/// What has been seen to happen.
#[derive(Debug, Default)]
pub struct Seen {
    all: HashSet<u64>,
    new: bool,
}

impl Seen {
    /// Notes that something happened; its kind, not its every detail, or all inputs are new.
    pub fn note(&mut self, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.new |= self.all.insert(hasher.finish());
    }
}

/// What to fuzz.
pub struct Fuzz<'a> {
    pub name: &'a str,
    /// A directory of inputs, each a file of lines of hexadecimal digits, one for each step, with `#` before remarks.
    pub corpus: &'a Path,
    /// How many inputs an ordinary run tries.
    pub inputs: usize,
    /// How many kinds of steps there are: the first byte of a step is below it (mostly).
    pub kinds: u8,
}

/// The steps of a text; what is no digit is passed over, so that they can be grouped.
pub fn parse(text: &str) -> Vec<Step> {
    let line = |line: &str| {
        let digits: Vec<u8> = line
            .split('#')
            .next()
            .unwrap_or_default()
            .chars()
            .filter_map(|c| c.to_digit(16))
            .filter_map(|digit| u8::try_from(digit).ok())
            .collect();
        let mut step = Step::default();
        for (to, from) in step.iter_mut().zip(digits.chunks(2)) {
            *to = from.iter().fold(0, |all, digit| all << 4 | digit);
        }
        (!digits.is_empty()).then_some(step)
    };
    text.lines().filter_map(line).collect()
}

pub fn show(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let used = step.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        for byte in step.iter().take(used) {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

/// Numbers that break what was not thought of.
const EDGES: [u8; 12] = [0, 1, 2, 4, 5, 8, 16, 64, 127, 128, 254, 255];

impl Fuzz<'_> {
    fn step(&self, rng: &mut Rng) -> Step {
        let mut step = Step::default();
        for byte in &mut step {
            // Small numbers more often than others.
            *byte = match rng.index(4) {
                0 => EDGES[rng.index(EDGES.len())],
                1 => 0,
                _ => rng.number().to_le_bytes()[0],
            };
        }
        step[0] = rng.number().to_le_bytes()[0] % self.kinds.max(1);
        step
    }

    /// A new input from those that are there.
    fn mutate(&self, rng: &mut Rng, pool: &[Vec<Step>]) -> Vec<Step> {
        if pool.is_empty() || rng.index(10) == 0 {
            return (0..1 + rng.index(24)).map(|_| self.step(rng)).collect();
        }
        let mut steps = pool[rng.index(pool.len())].clone();
        for _ in 0..1 + rng.index(6) {
            let at = rng.index(steps.len() + 1);
            match rng.index(9) {
                0 => steps.insert(at, self.step(rng)),
                1 if steps.len() > 1 => drop(steps.remove(at.min(steps.len() - 1))),
                2 if at < steps.len() => {
                    let to = rng.index(steps.len());
                    steps.swap(at, to);
                }
                3 if at < steps.len() => steps.insert(at, steps[at]),
                4 => {
                    let other = &pool[rng.index(pool.len())];
                    let from = rng.index(other.len());
                    let some = 1 + rng.index((other.len() - from).min(8));
                    steps.splice(at..at, other[from..].iter().take(some).copied());
                }
                _ if at < steps.len() => {
                    let byte = 1 + rng.index(15);
                    steps[at][byte] = match rng.index(4) {
                        0 => EDGES[rng.index(EDGES.len())],
                        1 => steps[at][byte].wrapping_add(1),
                        2 => steps[at][byte] ^ 1 << rng.index(8),
                        _ => rng.number().to_le_bytes()[0],
                    };
                }
                _ => {}
            }
        }
        steps.truncate(MAX_STEPS);
        steps
    }

    /// Runs it all. `target` panics where something is wrong.
    pub fn run(&self, target: impl Fn(&[Step], &mut Seen)) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seed = number("CHITIN_TEST_SEED").unwrap_or(20_250_601);
        let seconds = number("CHITIN_FUZZ_SECONDS").map(Duration::from_secs);
        let watch = Watch::new(self.name);
        let mut seen = Seen::default();
        let run = |steps: &[Step], origin: &str, seen: &mut Seen| {
            watch.begins(steps);
            seen.new = false;
            let failed = failure(|| target(steps, seen));
            watch.ends();
            if let Some(said) = failed {
                self.report(seed, origin, steps, &said, &watch, &target);
            }
        };
        if let Some(path) = std::env::var_os("CHITIN_FUZZ_INPUT") {
            let text = std::fs::read_to_string(&path).expect("CHITIN_FUZZ_INPUT names a file");
            watch.begins(&parse(&text));
            target(&parse(&text), &mut seen);
            return;
        }
        let mut files: Vec<_> = std::fs::read_dir(self.corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", self.corpus.display()))
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .collect();
        files.sort();
        let mut pool = Vec::new();
        for file in files {
            let steps = parse(&std::fs::read_to_string(&file).expect("a file of the corpus"));
            run(&steps, &file.display().to_string(), &mut seen);
            pool.push(steps);
        }
        pool.retain(|steps: &Vec<Step>| !steps.is_empty());
        let mut rng = Rng::new(seed);
        let began = Instant::now();
        let mut told = began;
        let mut count = 0;
        while seconds.map_or(count < self.inputs, |seconds| began.elapsed() < seconds) {
            let steps = self.mutate(&mut rng, &pool);
            run(&steps, &format!("input {count}"), &mut seen);
            if seen.new && pool.len() < MAX_POOL {
                pool.push(steps);
            }
            count += 1;
            if seconds.is_some() && told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                println!(
                    "{}: {count} inputs, {} kept, {} things seen, {} MiB",
                    self.name,
                    pool.len(),
                    seen.all.len(),
                    resident() >> 20
                );
            }
        }
        println!("{}: {count} inputs in {:?}, {} things seen", self.name, began.elapsed(), seen.all.len());
    }

    /// Says what failed, with an input that is as small as can be, and fails.
    fn report(
        &self,
        seed: u64,
        origin: &str,
        steps: &[Step],
        said: &str,
        watch: &Watch,
        target: &impl Fn(&[Step], &mut Seen),
    ) -> ! {
        let began = Instant::now();
        // The same failure is one at the same place.
        let place = |said: &str| said.lines().next().unwrap_or_default().to_owned();
        let fails = |steps: &[Step]| {
            watch.begins(steps);
            let again = failure(|| target(steps, &mut Seen::default()));
            watch.ends();
            began.elapsed() < PATIENCE && again.is_some_and(|again| place(&again) == place(said))
        };
        let mut least = steps.to_vec();
        let mut size = least.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < least.len() {
                let mut fewer = least.clone();
                fewer.drain(at..(at + size).min(fewer.len()));
                if fails(&fewer) { least = fewer } else { at += size }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        for at in 0..least.len() {
            for byte in (1..16).rev() {
                let mut plain = least.clone();
                if std::mem::take(&mut plain[at][byte]) != 0 && fails(&plain) {
                    least = plain;
                }
            }
        }
        panic!(
            "{}, CHITIN_TEST_SEED={seed}, {origin}: {said}\nthe least that fails so:\n{}",
            self.name,
            show(&least)
        );
    }
}

/// Where `run` panicked and what it said, if it did.
fn failure(run: impl FnOnce()) -> Option<String> {
    thread_local!(static SAID: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) });
    static HOOK: std::sync::Once = std::sync::Once::new();
    thread_local!(static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                let what = info.payload_as_str().unwrap_or("something else").to_owned();
                SAID.set(Some(format!("panic at {place}\n{what}")));
            } else {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(before);
    result.is_err().then(|| SAID.take().unwrap_or_default())
}

/// Bytes of memory that the process has.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Ends the process if an input does not end.
struct Watch {
    now: Arc<Mutex<Option<(Instant, Vec<Step>)>>>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn new(name: &str) -> Watch {
        let watch = Watch { now: Arc::default(), over: Arc::default() };
        let (now, over, name) = (watch.now.clone(), watch.over.clone(), name.to_owned());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let Ok(now) = now.lock() else { return };
                if let Some((_, steps)) = now.as_ref().filter(|(since, _)| since.elapsed() > ENDLESS) {
                    eprintln!("{name}: this input does not end:\n{}", show(steps));
                    std::process::abort();
                }
            }
        });
        watch
    }
    fn begins(&self, steps: &[Step]) {
        if let Ok(mut now) = self.now.lock() {
            *now = Some((Instant::now(), steps.to_vec()));
        }
    }
    fn ends(&self) {
        if let Ok(mut now) = self.now.lock() {
            *now = None;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fuzz(corpus: &Path) -> Fuzz<'_> {
        Fuzz { name: "itself", corpus, inputs: 20_000, kinds: 4 }
    }

    #[test]
    fn what_is_shown_can_be_parsed() {
        let mut steps = vec![Step::default(); 3];
        steps[1][3] = 0xab;
        steps[2] = [0xff; 16];
        assert_eq!(parse(&show(&steps)), steps);
        assert_eq!(parse("# nothing\n\n01 02 # two\n"), [parse("0102")[0]]);
    }

    /// A failure that takes three steps of its own kinds, in order, is found and made as small as that.
    #[test]
    fn a_failure_is_found_and_made_small() {
        let dir = std::env::temp_dir().join(format!("chitin-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let target = |steps: &[Step], seen: &mut Seen| {
            let mut stage = 0;
            for step in steps {
                stage += u8::from(step[0] == stage && (stage == 0 || step[1] > 127));
                seen.note(stage);
                assert!(stage < 3, "it came to this");
            }
        };
        let said = failure(|| fuzz(&dir).run(target)).expect("it is found");
        std::fs::remove_dir_all(&dir).unwrap();
        let (_, least) = said.split_once("fails so:\n").unwrap();
        let least = parse(least);
        assert!(said.contains("it came to this") && said.contains("CHITIN_TEST_SEED="), "{said}");
        assert_eq!(least.iter().map(|step| step[0]).collect::<Vec<_>>(), [0, 1, 2], "{said}");
        assert!(least.iter().all(|step| step[2..].iter().all(|byte| *byte == 0)), "{said}");
    }
}
