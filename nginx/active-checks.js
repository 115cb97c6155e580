// Asks every pod for its readiness, and picks pods that have said yes. See active-checks.conf.
//
// A pod changes sides after TIMES equal answers in a row. Until the first ones it is in, and
// when all pods are out all are in: no check must be able to turn all traffic away.

const TIMES = 2;
const PATH = '/api/system/health/readiness';

// [name, address] of each pod.
function pods(variables) {
    return variables.mingus_pods.split(' ').map((pod) => pod.split('='));
}

function isIn(name) {
    return !ngx.shared.mingus_checks.get(`${name} out`);
}

// Called every interval, in one of nginx's worker processes.
async function run(session) {
    await Promise.all(pods(session.variables).map((pod) => check(pod[0], pod[1])));
}

async function check(name, address) {
    let ready = false;
    try {
        const answer = await ngx.fetch(`http://${address}${PATH}`);
        ready = answer.status === 200;
    } catch (error) {
        // No answer, or too late: not ready.
    }
    observe(name, ready);
}

function observe(name, ready) {
    const memory = ngx.shared.mingus_checks;
    if (ready === isIn(name)) {
        memory.set(`${name} against`, 0);
    } else if (memory.incr(`${name} against`, 1, 0) >= TIMES) {
        memory.set(`${name} against`, 0);
        memory.set(`${name} out`, ready ? 0 : 1);
        ngx.log(ngx.WARN, `pod ${name} is ${ready ? 'in' : 'out'}`);
    }
}

// The route of a request: a pod that is in, each in turn. Called for each request.
function route(r) {
    const all = pods(r.variables).map((pod) => pod[0]);
    const usable = all.filter(isIn);
    if (usable.length === 0 || usable.length === all.length) {
        return '';
    }
    return usable[ngx.shared.mingus_checks.incr('turn', 1, 0) % usable.length];
}

function report(r) {
    const states = {};
    pods(r.variables).forEach((pod) => {
        states[pod[1]] = isIn(pod[0]) ? 'in' : 'out';
    });
    r.headersOut['Content-Type'] = 'application/json';
    r.return(200, JSON.stringify(states) + '\n');
}

export default { run, route, report };
