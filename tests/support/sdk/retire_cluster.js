class RetireClusterAPI {
  constructor(baseUrl, apiKey) {
    this.baseUrl = baseUrl;
    this.headers = {'Content-Type': 'application/json'};
    if (apiKey) {
      this.headers['X-API-Key'] = apiKey;
    }
  }
  
  async getClusterStatus() {
    const response = await fetch(`${this.baseUrl}/cluster/status`, {
      headers: this.headers
    });
    return response.json();
  }
  
  async submitTask(taskType, payload, options = {}) {
    const data = {
      task_type: taskType,
      payload: payload,
      ...options
    };
    const response = await fetch(`${this.baseUrl}/tasks`, {
      method: 'POST',
      headers: this.headers,
      body: JSON.stringify(data)
    });
    return response.json();
  }
}
