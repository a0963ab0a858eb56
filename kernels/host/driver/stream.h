// Streams and events of the model driver. Work is done as late as its order allows: when somebody asks whether it is done
// or waits for it, one task after the other; or at once. `driver.cpp` calls it.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <set>

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
};

struct Stream {
    std::deque<std::function<Status()>> tasks;
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

    void add(Stream& stream, std::function<Status()> task) {
        stream.tasks.push_back(std::move(task));
        // Nothing waits for the default stream by a rule of its own: it is never behind.
        if (early || &stream == &first_) {
            run(stream);
        }
    }

    void record(Stream& stream, Event& event) {
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
        const std::function<Status()> task = std::move(stream.tasks.front());
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

  private:
    Status fault_ = SUCCESS;
    Stream first_;
    std::set<Stream*> all_;
    std::set<Event*> events_;
};

}  // namespace model
