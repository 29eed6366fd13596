//! A driver whose device is the host. Work is left until somebody waits for it, as late as a device
//! may come to it: whoever relies on a result too early, or overwrites what is still to be read,
//! gets it wrong here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use gemba::backend::cuda::{
    Activation, Address, Arguments, Card, Dense, Driver, DriverError, Event, Function, Graph,
    Program, Shelf, Tracer,
};
use gemba::unit::Nanos;

use crate::numbers::{Act, e4m3_value};
use crate::shim::{self, Buffer, Shim, shim};

/// The host shim as a card.
pub struct Host {
    shim: &'static Shim,
    card: Card,
    buffers: RefCell<BTreeMap<u64, Buffer<'static>>>,
    functions: Vec<String>,
    loaded: RefCell<Vec<String>>,
    start: Instant,
    events: RefCell<Vec<Option<Nanos>>>,
    /// Decides the order of the next launch's blocks and threads.
    seed: Cell<u64>,
    shelves: RefCell<Vec<Vec<u8>>>,
    /// What is still to be done.
    queue: RefCell<VecDeque<Work>>,
    /// What is being written down, and what was.
    capturing: RefCell<Option<Vec<Work>>>,
    graphs: RefCell<Vec<Vec<Work>>>,
    /// How many products its library computed; none if it has no library.
    products: Option<Rc<Cell<usize>>>,
}

/// What is enqueued, and what a graph holds.
#[derive(Clone)]
enum Work {
    Launch {
        function: Function,
        grid: [u32; 3],
        block: u32,
        arguments: Arguments,
    },
    Product(Dense),
    Record(Event),
    Write(Address, Vec<u8>),
    /// So many bytes.
    Send(Shelf, Address, usize),
    Fetch(Address, Shelf),
}

impl Host {
    /// A card of so many multiprocessors, by which a backend divides products.
    pub fn new(activation: Activation, multiprocessors: u32) -> Self {
        let shim = shim(match activation {
            Activation::Bf16 => Act::Bf16,
            Activation::F16 => Act::F16,
        });
        let card = Card {
            number: 0,
            name: "host shim".to_owned(),
            uuid: String::new(),
            memory: 1 << 30,
            cache: 1 << 18,
            capability: (8, 0),
            multiprocessors,
        };
        Self {
            shim,
            card,
            buffers: RefCell::default(),
            functions: shim.kernels().keys().cloned().collect(),
            loaded: RefCell::default(),
            start: Instant::now(),
            events: RefCell::default(),
            seed: Cell::new(0),
            shelves: RefCell::default(),
            queue: RefCell::default(),
            capturing: RefCell::default(),
            graphs: RefCell::default(),
            products: None,
        }
    }

    /// The same with a library of dense products, which counts them.
    pub fn with_library(self, products: Rc<Cell<usize>>) -> Self {
        Self { products: Some(products), ..self }
    }

    /// Numbers of the activations' type.
    fn acts(&self, from: Address, count: usize) -> Vec<f64> {
        let mut bytes = vec![0; 2 * count];
        self.copy_from(from, &mut bytes);
        let bits = bytes.as_chunks().0.iter().map(|bits| u16::from_le_bytes(*bits));
        bits.map(|bits| self.shim.act.value(bits)).collect()
    }

    /// Rows of e4m3, each with its factor.
    fn scaled(&self, from: Address, [rows, inputs]: [usize; 2], factors: Address) -> Vec<f64> {
        let (mut codes, mut bytes) = (vec![0; rows * inputs], vec![0; 4 * rows]);
        self.copy_from(from, &mut codes);
        self.copy_from(factors, &mut bytes);
        let factors = bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
        let rows = codes.chunks(inputs).zip(factors);
        rows.flat_map(|(row, factor)| row.iter().map(move |code| e4m3_value(*code) * factor))
            .collect()
    }

    /// A product as its definition says, in 64 bits.
    fn product(&self, product: &Dense) {
        let [rows, outputs, inputs] =
            [product.rows, product.outputs, product.inputs].map(|size| size as usize);
        self.copy_to(product.workspace, &vec![0xff; Dense::WORKSPACE as usize]);
        let (x, weights) = match product.scales {
            None => {
                (self.acts(product.x, rows * inputs), self.acts(product.weights, outputs * inputs))
            }
            Some(scales) => (
                self.scaled(product.x, [rows, inputs], scales.rows),
                self.scaled(product.weights, [outputs, inputs], scales.outputs),
            ),
        };
        let bias = match product.bias {
            Address::NULL => vec![0.0; outputs],
            bias => self.acts(bias, outputs),
        };
        assert!(!(product.adds && product.wide), "nothing adds to logits");
        let before = match product.adds {
            true => self.acts(product.out, rows * outputs),
            false => vec![0.0; rows * outputs],
        };
        let mut bytes = Vec::new();
        for (x, before) in x.chunks(inputs).zip(before.chunks(outputs)) {
            for ((weights, bias), before) in weights.chunks(inputs).zip(&bias).zip(before) {
                let products = x.iter().zip(weights).map(|(x, weight)| x * weight);
                let sum = products.sum::<f64>() + bias + before;
                match product.wide {
                    true => bytes.extend((sum as f32).to_le_bytes()),
                    false => bytes.extend(self.shim.act.bits(sum).to_le_bytes()),
                }
            }
        }
        self.copy_to(product.out, &bytes);
    }

    /// Leaves it for later, or writes it down if launches are written down.
    fn enqueue(&self, work: Work) {
        if let Some(graph) = &mut *self.capturing.borrow_mut() {
            graph.push(work);
            return;
        }
        if let Work::Record(event) = work {
            // What it told before is gone.
            self.events.borrow_mut()[event.0 as usize] = None;
        }
        self.queue.borrow_mut().push_back(work);
    }

    fn work(&self, work: Work) -> Result<(), DriverError> {
        match work {
            Work::Launch { function, grid, block, arguments } => {
                let name = &self.functions[function.0 as usize];
                let arguments = arguments
                    .values()
                    .iter()
                    .fold(shim::Arguments::new(), |arguments, value| arguments.long(*value));
                let seed = self.seed.get();
                self.seed.set(seed + 1);
                let ran = self.shim.try_launch_with(name, grid, block, &arguments, seed);
                return ran.map_err(|what| failed("launch", what));
            }
            Work::Record(event) => {
                self.events.borrow_mut()[event.0 as usize] = Some(self.start.elapsed().into());
            }
            Work::Product(product) => {
                let count = self.products.as_ref().unwrap();
                count.set(count.get() + 1);
                self.product(&product);
            }
            Work::Write(to, bytes) => self.copy_to(to, &bytes),
            Work::Send(shelf, to, count) => {
                self.copy_to(to, &self.shelves.borrow()[shelf.0 as usize][..count]);
            }
            Work::Fetch(from, shelf) => {
                self.copy_from(from, &mut self.shelves.borrow_mut()[shelf.0 as usize]);
            }
        }
        Ok(())
    }

    /// Runs `work` on the `bytes` from `address` on, which must lie in one buffer.
    fn at(&self, address: Address, bytes: usize, work: impl FnOnce(*mut u8)) {
        let buffers = self.buffers.borrow();
        let (start, buffer) = buffers.range(..=address.0).next_back().unwrap();
        let offset = (address.0 - start) as usize;
        assert!(offset + bytes <= buffer.bytes().len(), "{bytes} bytes at {offset}");
        work(address.0 as *mut u8);
    }

    fn copy_to(&self, to: Address, bytes: &[u8]) {
        self.at(to, bytes.len(), |to| {
            // SAFETY: the bytes lie in one buffer, and nothing else looks at it now.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        });
    }

    fn copy_from(&self, from: Address, bytes: &mut [u8]) {
        self.at(from, bytes.len(), |from| {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        });
    }
}

fn failed(call: &str, what: String) -> DriverError {
    DriverError::Failed { call: call.to_owned(), what }
}

impl Driver for Host {
    fn card(&self) -> &Card {
        &self.card
    }

    fn free_memory(&self) -> Result<u64, DriverError> {
        let buffers = self.buffers.borrow();
        let taken: usize = buffers.values().map(|buffer| buffer.bytes().len()).sum();
        Ok(self.card.memory - taken as u64)
    }

    fn allocate(&self, bytes: u64) -> Result<Address, DriverError> {
        if bytes > self.free_memory()? {
            return Err(DriverError::OutOfMemory);
        }
        let buffer = self.shim.poisoned(bytes as usize);
        let address = buffer.bytes().as_ptr() as u64;
        self.buffers.borrow_mut().insert(address, buffer);
        Ok(Address(address))
    }

    fn free(&self, address: Address) -> Result<(), DriverError> {
        self.wait()?;
        self.buffers.borrow_mut().remove(&address.0).unwrap();
        Ok(())
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<(), DriverError> {
        self.enqueue(Work::Write(to, bytes.to_vec()));
        Ok(())
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<(), DriverError> {
        self.wait()?;
        self.copy_from(from, bytes);
        Ok(())
    }

    fn shelf(&self, bytes: u64) -> Result<Shelf, DriverError> {
        let mut shelves = self.shelves.borrow_mut();
        shelves.push(vec![0; bytes as usize]);
        Ok(Shelf(shelves.len() as u64 - 1))
    }

    fn send(&self, bytes: &[u8], by: Shelf, to: Address) -> Result<(), DriverError> {
        self.shelves.borrow_mut()[by.0 as usize][..bytes.len()].copy_from_slice(bytes);
        self.enqueue(Work::Send(by, to, bytes.len()));
        Ok(())
    }

    fn fetch(&self, from: Address, to: Shelf) -> Result<(), DriverError> {
        assert!(self.capturing.borrow().is_none(), "no graph fetches");
        self.enqueue(Work::Fetch(from, to));
        Ok(())
    }

    fn fetched(&self, from: Shelf, bytes: &mut [u8]) -> Result<(), DriverError> {
        bytes.copy_from_slice(&self.shelves.borrow()[from.0 as usize]);
        Ok(())
    }

    fn load(&self, programs: &[Program]) -> Result<(), DriverError> {
        for program in programs {
            let act = match program.activation {
                Activation::Bf16 => Act::Bf16,
                Activation::F16 => Act::F16,
            };
            assert_eq!(act, self.shim.act);
            self.loaded.borrow_mut().push(program.file.to_owned());
        }
        Ok(())
    }

    fn function(&self, name: &str) -> Result<Function, DriverError> {
        let missing = || failed("function", format!("no kernel is named {name}"));
        let file = &self.shim.kernels().get(name).ok_or_else(missing)?.file;
        let loaded = self.loaded.borrow();
        assert!(loaded.iter().any(|known| file.ends_with(known.as_str())), "{name} of {file}");
        let at = self.functions.iter().position(|found| found == name).ok_or_else(missing)?;
        Ok(Function(at as u64))
    }

    fn launch(
        &self,
        function: Function,
        grid: [u32; 3],
        block: u32,
        arguments: &Arguments,
    ) -> Result<(), DriverError> {
        self.enqueue(Work::Launch { function, grid, block, arguments: *arguments });
        Ok(())
    }

    fn multiplies(&self) -> Result<bool, DriverError> {
        Ok(self.products.is_some())
    }

    fn can_multiply(&self, _: &Dense) -> Result<bool, DriverError> {
        Ok(self.products.is_some())
    }

    fn multiply(&self, product: &Dense) -> Result<bool, DriverError> {
        let there = self.products.is_some();
        if there {
            self.enqueue(Work::Product(*product));
        }
        Ok(there)
    }

    fn event(&self) -> Result<Event, DriverError> {
        self.events.borrow_mut().push(None);
        Ok(Event(self.events.borrow().len() as u64 - 1))
    }

    fn record(&self, event: Event) -> Result<(), DriverError> {
        self.enqueue(Work::Record(event));
        Ok(())
    }

    fn wait_for(&self, event: Event) -> Result<(), DriverError> {
        let behind = |work: &Work| matches!(work, Work::Record(other) if *other == event);
        let last = self.queue.borrow().iter().rposition(behind);
        for _ in 0..last.map_or(0, |last| last + 1) {
            let next = self.queue.borrow_mut().pop_front();
            next.map_or(Ok(()), |work| self.work(work))?;
        }
        Ok(())
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<Nanos, DriverError> {
        let events = self.events.borrow();
        let at = |event: Event| {
            events[event.0 as usize].ok_or_else(|| failed("elapsed", "not recorded".to_owned()))
        };
        Ok(Nanos(at(to)?.0.checked_sub(at(from)?.0).unwrap()))
    }

    fn begin_capture(&self) -> Result<(), DriverError> {
        *self.capturing.borrow_mut() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph, DriverError> {
        let missing = || failed("end_capture", "none was begun".to_owned());
        let mut graphs = self.graphs.borrow_mut();
        graphs.push(self.capturing.take().ok_or_else(missing)?);
        Ok(Graph(graphs.len() as u64 - 1))
    }

    fn replay(&self, graph: Graph) -> Result<(), DriverError> {
        self.graphs.borrow()[graph.0 as usize].iter().for_each(|work| self.enqueue(work.clone()));
        Ok(())
    }

    fn forget(&self, graph: Graph) -> Result<(), DriverError> {
        self.wait()?;
        self.graphs.borrow_mut()[graph.0 as usize].clear();
        Ok(())
    }

    fn wait(&self) -> Result<(), DriverError> {
        loop {
            let Some(work) = self.queue.borrow_mut().pop_front() else { return Ok(()) };
            self.work(work)?;
        }
    }

    fn tracer(&self) -> Result<&dyn Tracer, &str> {
        Err("the host shim keeps none")
    }
}
