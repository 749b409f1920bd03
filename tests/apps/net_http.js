// `serve`: a server that says hello and sends back what it gets, on two processes that share the port. `use HOST`: requests to it,
// with connections that are kept, and to one that is not there.
const cluster = require('cluster'), http = require('http');
const [role, host] = process.argv.slice(2);

function serve() {
    if (cluster.isPrimary) {
        for (let n = 0; n < 2; n++) cluster.fork();
        return;
    }
    http.createServer((request, response) => {
        if (request.method === 'POST') return request.pipe(response);
        response.end('node here\n');
    }).listen(8081, '0.0.0.0');
}

function ask(agent, port, body) {
    return new Promise((done, failed) => {
        const request = http.request(`http://${host}:${port}/`, {agent, method: body ? 'POST' : 'GET'}, answer => {
            let length = 0;
            answer.on('data', chunk => length += chunk.length);
            answer.on('end', () => done(length));
        });
        request.on('error', failed);
        request.end(body);
    });
}

async function use() {
    const agent = new http.Agent({keepAlive: true, maxSockets: 20});
    const lengths = await Promise.all(Array.from({length: 500}, () => ask(agent, 8081)));
    console.log('node: requests', lengths.reduce((a, b) => a + b));
    const large = await Promise.all(Array.from({length: 10}, () => ask(agent, 8081, Buffer.alloc(1 << 20, 'q'))));
    console.log('node: echoes', large.reduce((a, b) => a + b));
    await ask(agent, 1).catch(error => console.log('node:', error.code));
    agent.destroy();
}

role === 'serve' ? serve() : use();
