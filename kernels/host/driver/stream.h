// Streams and events of the model driver. Work is done as late as its order allows: when somebody asks whether it is done
// or waits for it, one task after the other; or at once. What is added to a stream that captures becomes a graph's instead.
// `driver.cpp` calls it.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "host/driver/status.h"

namespace model {

using Time = std::chrono::steady_clock::time_point;

struct Stream;

// A place in a stream that was recorded.
struct Mark {
    Stream* stream;
    bool done = false;
    Time when;
};

struct Event {
    bool timed;
    // Null before it is first recorded.
    std::shared_ptr<Mark> mark;
    // Whether it was last recorded in a capture: then it is a place in a graph, and never done.
    bool captured = false;
};

using Task = std::function<Status()>;

// What a stream does in turn, recorded once: a graph, and what is launched of one.
struct Graph {
    std::vector<Task> tasks;
};

// A stream's capture: what was added since it began, by whom, and whether something forbidden was asked meanwhile.
struct Capture {
    std::vector<Task> tasks;
    std::thread::id thread;
    bool relaxed;
    bool invalid = false;
};

struct Stream {
    std::deque<Task> tasks;
    // Null when it captures nothing.
    std::unique_ptr<Capture> capture;
};

class Streams {
  public:
    bool early = false;

    // What a task that failed said: from then on everything says it.
    Status fault() const { return fault_; }

    void fail(Status status) {
        fault_ = fault_ == SUCCESS ? status : fault_;
        for (Stream* each : all_) {
            each->tasks.clear();
        }
        first_.tasks.clear();
    }

    Stream* make() { return *all_.insert(new Stream).first; }

    // The stream of a handle; null is the default stream, which waits for all others.
    Stream* find(Stream* handle) {
        if (handle == nullptr) {
            run_all();
            return &first_;
        }
        return all_.count(handle) != 0 ? handle : nullptr;
    }

    void end(Stream* stream) {
        run(*stream);
        all_.erase(stream);
        delete stream;
    }

    Event* make_event(bool timed) { return *events_.insert(new Event{timed, nullptr}).first; }

    bool has(Event* event) const { return events_.count(event) != 0; }

    void end(Event* event) {
        events_.erase(event);
        delete event;
    }

    void add(Stream& stream, Task task) {
        if (stream.capture != nullptr) {
            stream.capture->tasks.push_back(std::move(task));
            return;
        }
        stream.tasks.push_back(std::move(task));
        // Nothing waits for the default stream by a rule of its own: it is never behind.
        if (early || &stream == &first_) {
            run(stream);
        }
    }

    void record(Stream& stream, Event& event) {
        event.captured = stream.capture != nullptr;
        if (event.captured) {
            return;
        }
        event.mark = std::make_shared<Mark>(&stream);
        add(stream, [mark = event.mark] {
            mark->done = true;
            mark->when = std::chrono::steady_clock::now();
            return SUCCESS;
        });
    }

    // What is added to the stream from now on comes after what the event holds now.
    void wait(Stream& stream, const Event& event) {
        if (event.mark != nullptr) {
            add(stream, [this, mark = event.mark] {
                until(*mark);
                return fault_;
            });
        }
    }

    void until(const Mark& mark) {
        while (!mark.done && fault_ == SUCCESS) {
            step(*mark.stream);
        }
    }

    // One task, the oldest.
    void step(Stream& stream) {
        if (stream.tasks.empty()) {
            return;
        }
        const Task task = std::move(stream.tasks.front());
        stream.tasks.pop_front();
        if (const Status status = task(); status != SUCCESS) {
            fail(status);
        }
    }

    void run(Stream& stream) {
        while (!stream.tasks.empty()) {
            step(stream);
        }
    }

    void run_all() {
        for (Stream* stream : all_) {
            run(*stream);
        }
    }

    // What a thread that captures may not ask while it does, unless it began relaxed: the capture is then void.
    Status forbid() {
        Status status = SUCCESS;
        for (Stream* stream : all_) {
            Capture* capture = stream->capture.get();
            if (capture != nullptr && !capture->relaxed && capture->thread == std::this_thread::get_id()) {
                capture->invalid = true;
                status = CAPTURE_UNSUPPORTED;
            }
        }
        return status;
    }

    // CUstreamCaptureMode; of those but the last this knows the calling thread's part.
    Status begin_capture(Stream& stream, u32 mode) {
        constexpr u32 RELAXED = 2;
        if (&stream == &first_ || mode > RELAXED) {
            return &stream == &first_ ? CAPTURE_UNSUPPORTED : INVALID_VALUE;
        }
        if (stream.capture != nullptr) {
            return ILLEGAL_STATE;
        }
        stream.capture.reset(new Capture{{}, std::this_thread::get_id(), mode == RELAXED});
        return SUCCESS;
    }

    Status end_capture(Stream& stream, Graph*& graph) {
        graph = nullptr;
        if (stream.capture == nullptr) {
            return ILLEGAL_STATE;
        }
        if (!stream.capture->relaxed && stream.capture->thread != std::this_thread::get_id()) {
            return CAPTURE_WRONG_THREAD;
        }
        const std::unique_ptr<Capture> capture = std::move(stream.capture);
        if (capture->invalid) {
            return CAPTURE_INVALIDATED;
        }
        graph = *graphs_.insert(new Graph{std::move(capture->tasks)}).first;
        return SUCCESS;
    }

    bool has(Graph* graph) const { return graphs_.count(graph) != 0; }

    Graph* instantiate(const Graph& graph) { return *graphs_.insert(new Graph(graph)).first; }

    // What was launched of it is still done.
    void end(Graph* graph) {
        graphs_.erase(graph);
        delete graph;
    }

    void launch(Stream& stream, const Graph& graph) {
        for (const Task& task : graph.tasks) {
            add(stream, task);
        }
    }

  private:
    Status fault_ = SUCCESS;
    Stream first_;
    std::set<Stream*> all_;
    std::set<Event*> events_;
    std::set<Graph*> graphs_;
};

}  // namespace model
