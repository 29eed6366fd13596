//! A driver that computes nothing and writes down what it is asked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use gemba::backend::cuda::{
    Address, Arguments, Card, Dense, Driver, DriverError, Event, Function, Graph, Program, Record,
    Shelf, Tracer,
};
use gemba::unit::Nanos;

/// What a driver was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Allocate(u64),
    Free(Address),
    Write(Address, usize),
    Read(Address, usize),
    NewShelf(u64),
    Send(Shelf, Address, usize),
    Fetch(Address, Shelf),
    Load(&'static str),
    Launch { kernel: String, grid: [u32; 3], block: u32, arguments: Arguments },
    Multiply(Dense),
    NewEvent,
    Record(Event),
    WaitFor(Event),
    BeginCapture,
    EndCapture(Graph),
    Replay(Graph),
    Forget(Graph),
    Wait,
    Trace(bool),
    Records,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It comes twice.
    Doubled,
    /// It is of a kernel that nobody launched.
    Foreign,
    /// Its kernel had not ended when it was handed back.
    Endless,
}

/// What was asked, and which call is to fail.
#[derive(Default)]
pub struct Tape {
    pub asked: RefCell<Vec<Asked>>,
    /// The allocation, counted from zero, for which there is no memory.
    pub full_at: Cell<Option<usize>>,
    /// Whether there is a library of dense products, and whether it has a way for any.
    pub library: Cell<bool>,
    pub at_a_loss: Cell<bool>,
    /// The launch or product, counted from zero, that fails, and everything after it.
    pub lost_at: Cell<Option<usize>>,
    /// The record of a kernel, counted from zero, that gets lost, and whether that is told.
    pub missing: Cell<Option<(usize, bool)>>,
    /// The record of a kernel, counted from zero, with which something else is wrong.
    pub harmed: Cell<Option<(usize, Harm)>>,
    allocations: Cell<usize>,
    launches: Cell<usize>,
}

impl Tape {
    /// Launches since the last look, by kernel, grid and block; everything else is dropped.
    pub fn launched(&self) -> Vec<(String, [u32; 3], u32)> {
        let asked = self.asked.take().into_iter();
        asked
            .filter_map(|asked| match asked {
                Asked::Launch { kernel, grid, block, .. } => Some((kernel, grid, block)),
                _ => None,
            })
            .collect()
    }

    pub fn allocations(&self) -> usize {
        self.allocations.get()
    }

    fn lost(&self) -> Result<(), DriverError> {
        match self.lost_at.get() {
            Some(at) if self.launches.get() > at => Err(DriverError::Failed {
                call: "cuStreamSynchronize".to_owned(),
                what: "uncorrectable ECC error encountered".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// The driver.
pub struct Recorded {
    tape: Rc<Tape>,
    card: Card,
    next: Cell<u64>,
    functions: RefCell<Vec<String>>,
    events: Cell<u64>,
    /// Bytes of each.
    shelves: RefCell<Vec<u64>>,
    /// The device's clock: every event later than the one before.
    clock: Rc<Cell<u64>>,
    recorded: RefCell<Vec<u64>>,
    /// What is being written down, and what each graph holds.
    capturing: RefCell<Option<Vec<Noted>>>,
    graphs: RefCell<Vec<Vec<Noted>>>,
    traces: Option<Traces>,
    /// Products that the library has met.
    met: RefCell<Vec<Dense>>,
}

/// What a graph holds.
#[derive(Clone, Copy)]
enum Noted {
    Launch(Function),
    /// A product by the library.
    Product,
    Record(Event),
}

/// Records of kernels.
struct Traces {
    tape: Rc<Tape>,
    /// The driver's own.
    clock: Rc<Cell<u64>>,
    on: Cell<bool>,
    launched: RefCell<Vec<Function>>,
    ran: RefCell<Vec<Record>>,
    taken: Cell<usize>,
}

/// How long a kernel takes, by its records.
pub fn took(kernel: &str) -> Nanos {
    Nanos(10 + kernel.len() as u64)
}

impl Recorded {
    pub fn new(tape: Rc<Tape>, memory: u64) -> Self {
        let card = Card {
            number: 0,
            name: "recorded".to_owned(),
            uuid: String::new(),
            memory,
            cache: 1 << 20,
            capability: (9, 0),
            multiprocessors: 132,
        };
        Self {
            tape,
            card,
            next: Cell::new(1 << 32),
            functions: RefCell::default(),
            events: Cell::new(0),
            shelves: RefCell::default(),
            clock: Rc::new(Cell::new(1 << 40)),
            recorded: RefCell::default(),
            capturing: RefCell::default(),
            graphs: RefCell::default(),
            traces: None,
            met: RefCell::default(),
        }
    }

    /// One that has records of its kernels.
    pub fn traced(tape: Rc<Tape>, memory: u64) -> Self {
        let driver = Self::new(Rc::clone(&tape), memory);
        let traces = Traces {
            tape,
            clock: Rc::clone(&driver.clock),
            on: Cell::new(true),
            launched: RefCell::default(),
            ran: RefCell::default(),
            taken: Cell::new(0),
        };
        Self { traces: Some(traces), ..driver }
    }

    fn note(&self, asked: Asked) {
        self.tape.asked.borrow_mut().push(asked);
    }

    /// What would not be written down but done, or refused, if it came now.
    fn not_capturing(&self) {
        assert!(self.capturing.borrow().is_none(), "asked while launches are written down");
    }

    fn run(&self, kernel: Function, node: u64) {
        let time = took(&self.functions.borrow()[kernel.0 as usize]);
        self.pass_kernel(Some(kernel), time, node);
    }

    /// The library's own kernels, which nobody launched by their names.
    fn run_product(&self, node: u64) {
        for time in [40, 5] {
            self.pass_kernel(None, Nanos(time), node);
        }
    }

    fn pass_kernel(&self, kernel: Option<Function>, time: Nanos, node: u64) {
        let start = Nanos(self.clock.get() + 1);
        let end = start + time;
        self.clock.set(end.0);
        if let Some(traces) = self.traces.as_ref().filter(|traces| traces.on.get()) {
            traces.ran.borrow_mut().push(Record { kernel, start, end, node });
        }
    }

    fn pass(&self, event: Event) {
        self.clock.set(self.clock.get() + 10);
        self.recorded.borrow_mut()[event.0 as usize] = self.clock.get();
    }
}

impl Driver for Recorded {
    fn card(&self) -> &Card {
        &self.card
    }

    fn free_memory(&self) -> Result<u64, DriverError> {
        self.tape.lost()?;
        Ok(self.card.memory)
    }

    fn allocate(&self, bytes: u64) -> Result<Address, DriverError> {
        self.not_capturing();
        self.note(Asked::Allocate(bytes));
        let at = self.tape.allocations.get();
        self.tape.allocations.set(at + 1);
        if self.tape.full_at.get() == Some(at) {
            return Err(DriverError::OutOfMemory);
        }
        let address = self.next.get();
        self.next.set((address + bytes).next_multiple_of(256) + 256);
        Ok(Address(address))
    }

    fn free(&self, address: Address) -> Result<(), DriverError> {
        self.note(Asked::Free(address));
        Ok(())
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        self.note(Asked::Write(to, bytes.len()));
        Ok(())
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        self.note(Asked::Read(from, bytes.len()));
        bytes.fill(0);
        Ok(())
    }

    fn shelf(&self, bytes: u64) -> Result<Shelf, DriverError> {
        self.note(Asked::NewShelf(bytes));
        self.shelves.borrow_mut().push(bytes);
        Ok(Shelf(self.shelves.borrow().len() as u64 - 1))
    }

    fn send(&self, bytes: &[u8], by: Shelf, to: Address) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        assert!(bytes.len() as u64 <= self.shelves.borrow()[by.0 as usize]);
        self.note(Asked::Send(by, to, bytes.len()));
        Ok(())
    }

    fn fetch(&self, from: Address, to: Shelf) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        self.note(Asked::Fetch(from, to));
        Ok(())
    }

    fn fetched(&self, from: Shelf, bytes: &mut [u8]) -> Result<(), DriverError> {
        assert_eq!(self.shelves.borrow()[from.0 as usize], bytes.len() as u64);
        bytes.fill(0);
        Ok(())
    }

    fn load(&self, programs: &[Program]) -> Result<(), DriverError> {
        programs.iter().for_each(|program| self.note(Asked::Load(program.file)));
        Ok(())
    }

    fn function(&self, name: &str) -> Result<Function, DriverError> {
        let mut functions = self.functions.borrow_mut();
        functions.push(name.to_owned());
        Ok(Function(functions.len() as u64 - 1))
    }

    fn launch(
        &self,
        function: Function,
        grid: [u32; 3],
        block: u32,
        arguments: &Arguments,
    ) -> Result<(), DriverError> {
        // A failure is told by what comes after it, as a device does.
        self.tape.lost()?;
        self.tape.launches.set(self.tape.launches.get() + 1);
        let kernel = self.functions.borrow()[function.0 as usize].clone();
        self.note(Asked::Launch { kernel, grid, block, arguments: *arguments });
        if let Some(traces) = self.traces.as_ref().filter(|traces| traces.on.get()) {
            traces.launched.borrow_mut().push(function);
        }
        match &mut *self.capturing.borrow_mut() {
            Some(noted) => noted.push(Noted::Launch(function)),
            None => self.run(function, 0),
        }
        Ok(())
    }

    fn multiplies(&self) -> Result<bool, DriverError> {
        Ok(self.tape.library.get())
    }

    fn can_multiply(&self, product: &Dense) -> Result<bool, DriverError> {
        assert!(self.tape.library.get(), "asked of a library that is not there");
        assert!(product.rows > 64 && product.outputs > 0 && product.inputs > 0);
        Ok(!self.tape.at_a_loss.get())
    }

    fn multiply(&self, product: &Dense) -> Result<bool, DriverError> {
        assert!(self.tape.library.get(), "asked of a library that is not there");
        self.tape.lost()?;
        if self.tape.at_a_loss.get() {
            return Ok(false);
        }
        let mut met = self.met.borrow_mut();
        assert!(self.capturing.borrow().is_none() || met.contains(product), "not met before");
        met.push(*product);
        self.tape.launches.set(self.tape.launches.get() + 1);
        self.note(Asked::Multiply(*product));
        match &mut *self.capturing.borrow_mut() {
            Some(noted) => noted.push(Noted::Product),
            None => self.run_product(0),
        }
        Ok(true)
    }

    fn event(&self) -> Result<Event, DriverError> {
        self.note(Asked::NewEvent);
        self.recorded.borrow_mut().push(0);
        self.events.set(self.events.get() + 1);
        Ok(Event(self.events.get() - 1))
    }

    fn record(&self, event: Event) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.note(Asked::Record(event));
        match &mut *self.capturing.borrow_mut() {
            Some(noted) => noted.push(Noted::Record(event)),
            None => self.pass(event),
        }
        Ok(())
    }

    fn wait_for(&self, event: Event) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        self.note(Asked::WaitFor(event));
        Ok(())
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<Nanos, DriverError> {
        self.tape.lost()?;
        let recorded = self.recorded.borrow();
        Ok(Nanos(recorded[to.0 as usize] - recorded[from.0 as usize]))
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        self.note(Asked::BeginCapture);
        *self.capturing.borrow_mut() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, DriverError> {
        self.tape.lost()?;
        let mut graphs = self.graphs.borrow_mut();
        let graph = Graph(graphs.len() as u64);
        graphs.push(self.capturing.take().unwrap());
        self.note(Asked::EndCapture(graph));
        Ok(graph)
    }

    fn replay(&self, graph: Graph) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        self.tape.launches.set(self.tape.launches.get() + 1);
        self.note(Asked::Replay(graph));
        for (noted, at) in self.graphs.borrow()[graph.0 as usize].iter().zip(1..) {
            match noted {
                Noted::Launch(kernel) => self.run(*kernel, 1000 * (graph.0 + 1) - at),
                Noted::Product => self.run_product(1000 * (graph.0 + 1) - at),
                Noted::Record(event) => self.pass(*event),
            }
        }
        Ok(())
    }

    fn forget(&self, graph: Graph) -> Result<(), DriverError> {
        self.note(Asked::Forget(graph));
        self.graphs.borrow_mut()[graph.0 as usize].clear();
        Ok(())
    }

    fn wait(&self) -> Result<(), DriverError> {
        self.tape.lost()?;
        self.not_capturing();
        self.note(Asked::Wait);
        Ok(())
    }

    fn tracer(&self) -> Result<&dyn Tracer, &str> {
        self.traces.as_ref().map(|traces| traces as &dyn Tracer).ok_or("this driver has none")
    }
}

impl Tracer for Traces {
    fn trace(&self, kernels: bool) -> Result<(), DriverError> {
        self.tape.asked.borrow_mut().push(Asked::Trace(kernels));
        self.on.set(kernels);
        self.launched.take();
        self.ran.take();
        Ok(())
    }

    fn now(&self) -> Result<Nanos, DriverError> {
        Ok(Nanos(self.clock.get()))
    }

    fn launched(&self, kernels: &mut Vec<Function>) {
        kernels.append(&mut self.launched.borrow_mut());
    }

    fn records(&self, _least: usize, records: &mut Vec<Record>) -> Result<u64, DriverError> {
        self.tape.asked.borrow_mut().push(Asked::Records);
        let first = self.taken.get();
        let ran = self.ran.take();
        self.taken.set(first + ran.len());
        let missing =
            self.tape.missing.get().filter(|(at, _)| (first..self.taken.get()).contains(at));
        let kept =
            ran.into_iter().zip(first..).filter(|(_, at)| missing.is_none_or(|m| m.0 != *at));
        // In any order: as they are not asked for in one.
        for (mut record, at) in kept {
            let harm = self.tape.harmed.get().filter(|(harmed, _)| *harmed == at);
            match harm.map(|(_, harm)| harm) {
                Some(Harm::Doubled) => records.push(record),
                Some(Harm::Foreign) => record.kernel = None,
                Some(Harm::Endless) => record.end = Nanos::ZERO,
                None => {}
            }
            records.push(record);
        }
        records.reverse();
        Ok(u64::from(missing.is_some_and(|(_, told)| told)))
    }
}
