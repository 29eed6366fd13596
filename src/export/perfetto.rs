//! The Chrome trace format in the dialect of Kineto, PyTorch's profiler: what Perfetto,
//! chrome://tracing, HolisticTraceAnalysis and TraceLens open.
//!
//! A process is a device, with a thread for every stream, one for steps and one for the
//! scheduler; requests are a process of their own. Times are microseconds of run time with three
//! decimals, so that no nanosecond is lost. Events are written as they come, nothing is kept but
//! which streams there were.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::report::{Argument, Counter, Lane, Slice};

/// Threads of a device that are no streams; streams are 16-bit numbers.
const STEPS: u32 = 100_000;
const SCHEDULER: u32 = 100_001;

/// The process of the requests; devices are 16-bit numbers.
const REQUESTS: u32 = 100_000;

/// Writes a trace event by event.
pub struct TraceFile<W> {
    out: W,
    any: bool,
    named: BTreeSet<(u32, u32)>,
    launches: u64,
}

impl<W: Write> TraceFile<W> {
    /// Begins a trace of `devices`: number, name and bytes of memory. `title` says what ran.
    ///
    /// # Errors
    /// What `out` says.
    pub fn begin(mut out: W, title: &str, devices: &[(u16, String, u64)]) -> io::Result<Self> {
        let properties = devices
            .iter()
            .map(|(id, name, memory)| json!({ "id": id, "name": name, "totalGlobalMem": memory }));
        let properties: Vec<Value> = properties.collect();
        out.write_all(b"{\"schemaVersion\":1,\"displayTimeUnit\":\"ms\",\"deviceProperties\":")?;
        serde_json::to_writer(&mut out, &properties)?;
        out.write_all(b",\"traceName\":")?;
        serde_json::to_writer(&mut out, title)?;
        out.write_all(b",\"distributedInfo\":{\"rank\":0,\"world_size\":1},\"traceEvents\":[")?;
        let mut file = Self { out, any: false, named: BTreeSet::new(), launches: 0 };
        for (id, name, _) in devices {
            file.metadata(u32::from(*id), 0, "process_name", json!({ "name": name }))?;
            let order = json!({ "sort_index": id });
            file.metadata(u32::from(*id), 0, "process_sort_index", order)?;
        }
        file.metadata(REQUESTS, 0, "process_name", json!({ "name": "requests" }))?;
        let order = json!({ "sort_index": REQUESTS });
        file.metadata(REQUESTS, 0, "process_sort_index", order)?;
        Ok(file)
    }

    /// Writes a slice.
    ///
    /// # Errors
    /// What the output says.
    pub fn slice(&mut self, slice: &Slice) -> io::Result<()> {
        let (process, thread) = place(slice.lane);
        if self.named.insert((process, thread)) {
            let name = json!({ "name": lane_name(slice.lane) });
            self.metadata(process, thread, "thread_name", name)?;
        }
        self.separate()?;
        let (category, kernel) = match slice.lane {
            Lane::Stream { device, stream } => ("kernel", Some((device, stream))),
            Lane::Steps { .. } => ("user_annotation", None),
            Lane::Scheduler { .. } => ("scheduler", None),
            Lane::Requests { .. } => ("request", None),
        };
        let (start, duration) = (slice.start, slice.end - slice.start);
        write!(self.out, "{{\"ph\":\"X\",\"cat\":\"{category}\",\"name\":")?;
        serde_json::to_writer(&mut self.out, &slice.name)?;
        write!(
            self.out,
            ",\"pid\":{process},\"tid\":{thread},\"ts\":{}.{:03},\"dur\":{}.{:03},\"args\":{{",
            start / 1000,
            start % 1000,
            duration / 1000,
            duration % 1000
        )?;
        let mut first = true;
        if let Some((device, stream)) = kernel {
            self.launches += 1;
            let correlation = self.launches;
            write!(
                self.out,
                "\"device\":{device},\"context\":0,\"stream\":{stream},\
                 \"correlation\":{correlation}"
            )?;
            first = false;
        }
        for (name, argument) in &slice.arguments {
            if !std::mem::take(&mut first) {
                self.out.write_all(b",")?;
            }
            serde_json::to_writer(&mut self.out, name)?;
            self.out.write_all(b":")?;
            match argument {
                Argument::Count(count) => write!(self.out, "{count}")?,
                Argument::Share(share) => write!(self.out, "{share:.6}")?,
                Argument::Word(word) => serde_json::to_writer(&mut self.out, word)?,
            }
        }
        self.out.write_all(b"}}")
    }

    /// Writes a counter.
    ///
    /// # Errors
    /// What the output says.
    pub fn counter(&mut self, counter: &Counter) -> io::Result<()> {
        self.separate()?;
        let Counter { device, name, at, values } = counter;
        write!(
            self.out,
            "{{\"ph\":\"C\",\"name\":\"{name}\",\"pid\":{device},\"tid\":0,\"ts\":{}.{:03},\
             \"args\":{{",
            at / 1000,
            at % 1000
        )?;
        for (place, (name, value)) in values.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(self.out, "{comma}\"{name}\":{value}")?;
        }
        self.out.write_all(b"}}")
    }

    /// Ends the trace and gives back what it was written to.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn metadata(&mut self, process: u32, thread: u32, name: &str, args: Value) -> io::Result<()> {
        self.separate()?;
        let event = json!({
            "ph": "M", "name": name, "pid": process, "tid": thread, "ts": 0, "args": args,
        });
        Ok(serde_json::to_writer(&mut self.out, &event)?)
    }

    fn separate(&mut self) -> io::Result<()> {
        let comma: &[u8] = if std::mem::replace(&mut self.any, true) { b",\n" } else { b"\n" };
        self.out.write_all(comma)
    }
}

/// The process and thread of a lane.
fn place(lane: Lane) -> (u32, u32) {
    match lane {
        Lane::Stream { device, stream } => (device.into(), stream.into()),
        Lane::Steps { device } => (device.into(), STEPS),
        Lane::Scheduler { device } => (device.into(), SCHEDULER),
        Lane::Requests { lane } => (REQUESTS, lane),
    }
}

fn lane_name(lane: Lane) -> String {
    match lane {
        Lane::Stream { stream, .. } => format!("stream {stream}"),
        Lane::Steps { .. } => "steps".to_owned(),
        Lane::Scheduler { .. } => "scheduler".to_owned(),
        Lane::Requests { lane } => format!("lane {lane}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names may hold anything; what is read back is what was written.
    #[test]
    fn events_are_json_whatever_their_names() {
        let devices = [(0, "cpu:0 \"Intel\"\n".to_owned(), 7)];
        let mut file = TraceFile::begin(Vec::new(), "a \\ b", &devices).unwrap();
        let slice = Slice {
            lane: Lane::Stream { device: 0, stream: 3 },
            name: "\u{1}</script>".to_owned(),
            start: 1_002_003,
            end: 1_002_103,
            arguments: vec![
                ("ops".to_owned(), Argument::Count(u64::MAX)),
                ("waste share".to_owned(), Argument::Share(1.0 / 3.0)),
                ("cause".to_owned(), Argument::Word("padding".to_owned())),
            ],
        };
        file.slice(&slice).unwrap();
        file.slice(&Slice { lane: Lane::Requests { lane: 2 }, ..slice }).unwrap();
        let values = vec![("used", 3.0), ("free", 0.5)];
        file.counter(&Counter { device: 0, name: "kv blocks", at: 5, values }).unwrap();
        let text = file.finish().unwrap();
        let json: Value = serde_json::from_slice(&text).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).collect::<Vec<_>>();
        let slices = of("X");
        assert_eq!(slices.len(), 2);
        assert_eq!(slices[0]["ts"], 1002.003);
        assert_eq!(slices[0]["dur"], 0.1);
        assert_eq!(slices[0]["name"], "\u{1}</script>");
        assert_eq!(slices[0]["args"]["stream"], 3);
        assert_eq!(slices[0]["args"]["ops"], u64::MAX);
        assert_eq!(slices[0]["args"]["waste share"], 0.333_333);
        assert_eq!(slices[1]["pid"], REQUESTS);
        assert_eq!(of("C")[0]["args"], json!({ "used": 3, "free": 0.5 }));
        let threads = of("M").into_iter().filter(|e| e["name"] == "thread_name").count();
        assert_eq!(threads, 2);
    }
}
